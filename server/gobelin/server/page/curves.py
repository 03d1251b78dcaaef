"""The curves of the aggregator's page: every figure of rounds that is recorded."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gobelin.server.details import MemberDetail
from gobelin.server.overview import Overview, RoundPoint
from gobelin.shared.pages.charts import Chart, Level, Line

Figure = Callable[[RoundPoint], float | None]


def curves_of(overview: Overview) -> list[Chart]:
    """All that somebody measured, in the order a person asks."""
    history = overview.history
    floor = Level("floor", overview.sigreg_floor)

    def chart(
        key: str, title: str, about: str, lines: dict[str, Figure], unit: str = "", *levels: Level
    ) -> Chart:
        rounds = [point.round for point in history]
        drawn = [Line(label, [of(point) for point in history]) for label, of in lines.items()]
        return Chart(key, title, about, rounds, drawn, levels, unit)

    charts = [
        chart(
            "loss",
            "Loss",
            "Of the nodes' local steps, the mean over contributions. It falls.",
            {
                "mean": lambda p: p.loss,
                "least": lambda p: p.loss_least,
                "greatest": lambda p: p.loss_most,
            },
        ),
        chart(
            "probe",
            "Score on the public probe",
            "By how much contributions lower the loss on it, the mean. Above 0 they help.",
            {"score": lambda p: p.probe},
            "",
            Level("none", 0.0),
        ),
        chart(
            "rank",
            "Effective rank",
            "Directions that features differ in. A sudden fall is a collapse.",
            {"effective rank": lambda p: p.rank},
        ),
        chart(
            "sigreg",
            "SIGReg",
            "How far projections are from a Gaussian; the floor is a perfect one's.",
            {"statistic T": lambda p: p.sigreg},
            "",
            floor,
        ),
        chart(
            "premium",
            "Federation premium",
            "What members gain over training alone, as they tell it. Above 0 it pays.",
            {"premium": lambda p: p.premium},
            "points",
            Level("none", 0.0),
        ),
        chart(
            "agreement",
            "Agreement of deltas",
            "Cosine of members' deltas, and the share of coordinates most move the same way.",
            {"cosine": lambda p: p.cosine, "sign agreement": lambda p: p.sign_most},
        ),
        chart(
            "retained",
            "Retained norm",
            "Length of the aggregate beside the mean delta: 1 if all agree, 1/√n if orthogonal.",
            {"retained norm": lambda p: p.retained},
        ),
        chart(
            "rotation",
            "Frame rotation",
            "How far the round turned the embedding against its base.",
            {"rotation": lambda p: p.rotation},
            "degrees",
        ),
        chart(
            "bytes",
            "Bytes",
            "Sent by nodes, and sent to them, in all.",
            {
                "from nodes": lambda p: _mega(p.sent),
                "to nodes": lambda p: _mega(p.received),
            },
            "MB",
        ),
        chart(
            "seconds",
            "Seconds a round",
            "From its offer to its seal, and what of it is not the slowest node's training.",
            {"round": lambda p: p.seconds, "beside training": lambda p: p.overhead},
            "s",
        ),
        chart(
            "contributions",
            "Contributions",
            "Answers that counted, and those that were refused or never came.",
            {
                "counted": lambda p: float(p.contributions),
                "refused": lambda p: float(p.refused),
                "absent": lambda p: float(p.absent),
            },
        ),
        chart(
            "distortion",
            "Distortion",
            "Share of the deltas' power that the codec left out, and owes.",
            {"distortion": lambda p: p.distortion or None},
        ),
    ]
    return [one for one in charts if not one.empty]


def curves_of_member(detail: MemberDetail) -> list[Chart]:
    """A member's influence, and its nodes' bytes and seconds."""
    charts = [
        Chart(
            "influence",
            "Share of influence",
            "How far it moved the consensus in each round.",
            detail.rounds,
            [Line("influence", [100 * share for share in detail.influence])],
            unit="%",
        )
    ]
    for key, title, unit, values in (
        ("bytes", "Bytes sent", "MB", [(n.node.name, n.rounds, n.bytes) for n in detail.nodes]),
        ("seconds", "Training", "s", [(n.node.name, n.rounds, n.seconds) for n in detail.nodes]),
    ):
        rounds = sorted({number for _, numbers, _ in values for number in numbers})
        scale = 1e-6 if unit == "MB" else 1.0
        lines = [Line(name, _spread(rounds, own, of, scale)) for name, own, of in values]
        about = "Of each of its nodes, in the rounds that counted it."
        charts.append(Chart(f"member-{key}", title, about, rounds, lines, unit=unit))
    return [one for one in charts if one.lines and not one.empty]


def _spread(
    rounds: Sequence[int], own: Sequence[int], values: Sequence[float], scale: float
) -> list[float | None]:
    known = dict(zip(own, values, strict=True))
    return [known[n] * scale if n in known else None for n in rounds]


def _mega(count: int | None) -> float | None:
    return None if count is None else count / 1e6
