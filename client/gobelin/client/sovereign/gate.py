"""The gate: floors a build must keep, or it is not signed.

A floor is judged on the bound of the confidence interval that speaks against the build, so a lucky
test set does not pass it; `judged_on = "estimate"` takes the figure itself. A floor on a figure
that was not measured is broken.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from pydantic import model_validator

from gobelin.shared.errors import GobelinError
from gobelin.shared.evaluation.intervals import Interval
from gobelin.shared.settings import Settings

MINIMA = "min_"  # of floors; the others are of what may be lost


class GateError(GobelinError):
    """A build broke a floor of its gate and was not signed."""

    code, exit_code = "gate", 66


class Floors(Settings):
    """The table `[gate]`: percent and points, but for `max_brier` (0 to 2) and `max_nll` (nats)."""

    # bound: the end of the interval that speaks against the build
    judged_on: Literal["bound", "estimate"] = "bound"
    min_accuracy: float | None = None  # of classes, percent
    min_balanced_accuracy: float | None = None  # percent; classes weigh alike, however rare
    min_auroc: float | None = None  # of an anomaly detector, percent
    min_found: float | None = None  # percent of the anomalies, at 5 % false alarms
    min_foresight: float | None = None  # of a world model: skill against "nothing moves", percent
    # points over consensus + probe in the headline figure
    min_gain_over_consensus: float | None = None
    min_gain_over_scratch: float | None = None  # points over the same build from random weights
    min_gain_over_solo: float | None = None  # points over the region's solo model + probe
    min_accuracy_shifted: float | None = None  # percent, mean over corruptions
    max_points_lost_general: float | None = None  # on the worst of the consensus's own benchmarks
    max_ece: float | None = None  # expected calibration error, percent
    max_brier: float | None = None  # Brier score, 0 to 2
    max_nll: float | None = None  # negative log-likelihood, nats a sample

    @model_validator(mode="before")
    @classmethod
    def _unset_asks_nothing(cls, told: Any) -> Any:
        """Packages name every floor of their time, also those there are no more."""
        return {k: v for k, v in told.items() if v is not None} if isinstance(told, dict) else told

    @property
    def asked(self) -> dict[str, float]:
        """The floors that are set."""
        told = self.model_dump(exclude={"judged_on"}, exclude_none=True)
        return {name: float(value) for name, value in told.items()}


@dataclass(frozen=True)
class Judgement:
    """One floor, and whether it holds."""

    floor: str
    asked: float
    found: float | None  # as judged: a bound or an estimate; None: it was not measured
    judged_on: str

    @property
    def short(self) -> float | None:
        """By how much it is broken (0 or less: it holds); None where nothing was measured."""
        if self.found is None:
            return None
        away = self.asked - self.found
        return away if self.floor.startswith(MINIMA) else -away

    @property
    def holds(self) -> bool:
        """Whether it does."""
        return self.short is not None and self.short <= 0

    @property
    def text(self) -> str:
        """In words."""
        if self.found is None:
            return f"{self.floor} = {self.asked:g} was asked, and nothing of it was measured"
        which = "estimate"
        if self.judged_on == "bound":
            which = "lower bound" if self.floor.startswith(MINIMA) else "upper bound"
        said = f"{self.floor} = {self.asked:g}: the {which} is {self.found:.3g}"
        return said if self.holds else f"{said}, off by {self.short:.3g}"

    def facts(self) -> dict[str, Any]:
        """Plain JSON."""
        return {**asdict(self), "short": self.short, "holds": self.holds}


def judge(figures: Mapping[str, Interval], floors: Floors) -> list[Judgement]:
    """Every floor that is set, on figures by name (`Report.figures`)."""
    found = []
    for floor, asked in floors.asked.items():
        figure = figures.get(floor[len(MINIMA) :])
        value = None
        if figure is not None:
            bound = figure.low if floor.startswith(MINIMA) else figure.high
            value = bound if floors.judged_on == "bound" else figure.value
        found.append(Judgement(floor, asked, value, floors.judged_on))
    return found


def broken(judgements: list[Judgement]) -> list[Judgement]:
    """Those that do not hold."""
    return [each for each in judgements if not each.holds]


def require_kept(judgements: list[Judgement], where: str) -> None:
    """Raise GateError where a floor is broken; `where` the report is kept."""
    odd = broken(judgements)
    if odd:
        what = "not signed: " + "; ".join(each.text for each in odd)
        raise GateError(what, f"see {where}; give more labels, or another method, or lower floors")
