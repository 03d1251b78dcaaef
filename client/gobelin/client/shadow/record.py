"""What is known of the shadow, in one file: what was trained, what was measured, at what cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from gobelin.client.shadow.premium import Point, Premium, premium_of
from gobelin.protocols.messages import (
    METRIC_PREMIUM_SEEN,
    METRICS_PREMIUM,
    MalformedMessageError,
    RoundPlan,
)
from gobelin.shared.errors import ShadowError, StateError
from gobelin.shared.files import PRIVATE, find_json, write_json

FILE = "record.json"
SOLO = "solo"  # the folder of the solo model, beside


@dataclass(frozen=True)
class Record:
    """The shadow of one federation; rounds and steps are the federation's."""

    plan: RoundPlan  # the last that this node has answered
    recipe_digest: str
    from_round: int  # whose base the solo model started from; 1: the initial model
    data: Mapping[int, int]  # samples this node has, by the round from which on it had so many
    held_out: int  # of them
    measure: str
    trained: Mapping[int, tuple[int, float]] = field(default_factory=dict)  # samples, seconds
    consensus: tuple[Point, ...] = ()
    solo: tuple[Point, ...] = ()
    solo_steps: int = 0  # where the solo model is
    solo_samples: int = 0
    training_s: float = 0.0  # spent on the solo model
    measuring_s: float = 0.0  # and on judging both
    waited_s: float = 0.0  # the longest that mail has waited for the shadow to give way
    ended: str = ""  # why the shadow has ended, where it has

    @property
    def contributed(self) -> int:
        """This node's samples behind its contributions."""
        return sum(samples for samples, _ in self.trained.values())

    @property
    def spent_s(self) -> float:
        """All that the shadow has cost."""
        return self.training_s + self.measuring_s

    def before(self, number: int) -> int:
        """This node's samples behind its contributions to rounds before `number`."""
        return sum(samples for of, (samples, _) in self.trained.items() if of < number)

    def owed_s(self, share: float) -> float:
        """Seconds the shadow may still take for `share` of all training time."""
        federated = sum(seconds for _, seconds in self.trained.values())
        return share / (1 - share) * federated - self.spent_s

    def answered(self, plan: RoundPlan, samples: int, seconds: float) -> Record:
        """After a contribution to a plan's round; told again it counts once.

        Later rounds are of a course that the federation has left, going back to an earlier base.
        """
        kept = {of: told for of, told in self.trained.items() if of < plan.round}
        stood = tuple(point for point in self.consensus if point.at <= plan.round)
        told = {**kept, plan.round: (samples, seconds)}
        return replace(self, plan=plan, trained=told, consensus=stood)

    def with_consensus(self, point: Point) -> Record:
        """With the quality of a round's base, in place of what was known of that round."""
        return replace(self, consensus=_with(self.consensus, point))

    def with_solo(self, point: Point) -> Record:
        """With the quality of the solo model after so many steps."""
        return replace(self, solo=_with(self.solo, point))

    def premium(self) -> Premium | None:
        """The newest; None where none can be told yet."""
        return premium_of(self.consensus, self.solo, self.contributed, self.held_out)

    def claims(self) -> dict[str, float]:
        """The declared scalars, for an operator who shares them; to a tenth of a point."""
        if (premium := self.premium()) is None:
            return {}
        name = METRICS_PREMIUM[self.measure]
        return {name: round(premium.points, 1), METRIC_PREMIUM_SEEN: round(premium.seen, 3)}

    def write(self, folder: Path) -> None:
        """Keep it."""
        facts = asdict(self) | {"plan": self.plan.to_bytes().decode()}
        write_json(folder / FILE, facts, PRIVATE)


def read_record(folder: Path) -> Record | None:
    """What was written; None where no shadow has begun. Raises ShadowError on damage."""
    try:
        facts = find_json(folder / FILE)
        if facts is None:
            return None
        facts["plan"] = RoundPlan.from_bytes(facts["plan"].encode())
        facts["data"] = {int(of): int(count) for of, count in facts["data"].items()}
        facts["trained"] = {int(of): (int(s), float(t)) for of, (s, t) in facts["trained"].items()}
        for name in ("consensus", "solo"):
            facts[name] = tuple(Point(**point) for point in facts[name])
        return replace(Record(**facts), ended="")  # whoever reads it tries again
    except (StateError, MalformedMessageError, KeyError, TypeError, ValueError, AttributeError):
        raise ShadowError(
            f"{folder / FILE} is damaged", f"remove {folder}; a new solo model is begun"
        ) from None


def _with(points: tuple[Point, ...], point: Point) -> tuple[Point, ...]:
    return tuple(sorted([*(p for p in points if p.at != point.at), point], key=lambda p: p.at))
