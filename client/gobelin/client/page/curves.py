"""The curves of the node's page: what left by round, weights, and the premium."""

from __future__ import annotations

from gobelin.client.overview import PURPOSES, Overview, RoundView
from gobelin.shared.pages.charts import Chart, Level, Line


def curves_of(overview: Overview) -> list[Chart]:
    """All that there is a figure of."""
    known = {of.round: of for of in overview.rounds}
    rounds = list(range(min(known), max(known) + 1)) if known else []
    views = [known.get(number, RoundView(number)) for number in rounds]
    left = [Line(purpose, [of.bytes.get(purpose) for of in views]) for purpose in PURPOSES]
    wire = Line("all on the wire", [of.wire_bytes or None for of in views])
    weights = [of.weight for of in views]
    charts = [
        Chart(
            "egress",
            "What left this node",
            "Bytes of each round's contribution by what they are, and all that its sending took.",
            rounds,
            [*left, wire],
            unit="bytes",
        ),
        Chart(
            "weights",
            "Weight in the consensus",
            "Of each contribution that counted; a gap is a round without this node.",
            rounds,
            [Line("weight", weights)],
        ),
    ]
    premium = overview.premium
    if premium is not None:
        seen = [point.samples for point in premium.history]
        charts += [
            Chart(
                "premium",
                "Federation premium",
                "Consensus minus solo model at as many of this node's samples. Above 0 it pays.",
                seen,
                [Line("premium", [point.points for point in premium.history])],
                [Level("none", 0.0)],
                "points",
                "samples",
            ),
            Chart(
                "quality",
                "Consensus and solo model",
                "On this node's held-out samples, at as many of its samples.",
                seen,
                [
                    Line("consensus", [point.consensus for point in premium.history]),
                    Line("solo", [point.solo for point in premium.history]),
                ],
                (),
                "%",
                "samples",
            ),
        ]
    return [chart for chart in charts if not chart.empty]
