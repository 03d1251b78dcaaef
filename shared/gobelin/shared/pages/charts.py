"""Charts of figures by round: what uPlot draws, and the same as a table for who sees no picture."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

from gobelin.shared.pages.templates import number

MOST = 300  # points of a chart: more are no more pixels
ROWS = 24  # of its table

Value = float | None


@dataclass(frozen=True)
class Line:
    """One curve."""

    label: str
    values: Sequence[Value]


@dataclass(frozen=True)
class Level:
    """A figure that does not change, such as a floor."""

    label: str
    value: float


@dataclass(frozen=True)
class Chart:
    """Curves over the same rounds; `key` names it on its page."""

    key: str
    title: str
    about: str  # one line: what it shows, and which way is good
    rounds: Sequence[int]
    lines: Sequence[Line]
    levels: Sequence[Level] = ()
    unit: str = ""
    x_label: str = "round"

    @property
    def empty(self) -> bool:
        """Whether nobody has measured anything."""
        return not any(value is not None for line in self.lines for value in line.values)

    @property
    def shown(self) -> Chart:
        """With as many points as are drawn, and without curves that have none."""
        kept = pick([line.values for line in self.lines], len(self.rounds))
        lines = [
            Line(line.label, [_finite(line.values[i]) for i in kept])
            for line in self.lines
            if any(value is not None for value in line.values)
        ]
        rounds = [self.rounds[i] for i in kept]
        return Chart(
            self.key, self.title, self.about, rounds, lines, self.levels, self.unit, self.x_label
        )

    @property
    def data(self) -> str:
        """What is drawn, as JSON."""
        shown = self.shown
        told = {
            "x": list(shown.rounds),
            "xLabel": self.x_label,
            "unit": self.unit,
            "lines": [{"label": line.label, "values": list(line.values)} for line in shown.lines],
            "levels": [{"label": level.label, "value": level.value} for level in self.levels],
        }
        return json.dumps(told, separators=(",", ":"), allow_nan=False)

    @property
    def summary(self) -> str:
        """The curves in a sentence, for who sees no picture."""
        said = []
        for line in self.lines:
            known = [value for value in line.values if value is not None]
            if known:
                last, least, most = number(known[-1]), number(min(known)), number(max(known))
                said.append(f"{line.label}: last {last}, least {least}, most {most}")
        return f"{self.title} by {self.x_label}. " + "; ".join(said)

    @property
    def table(self) -> list[tuple[int, list[Value]]]:
        """Some of the points, the first and the last among them."""
        shown = self.shown
        count = len(shown.rounds)
        step = max(1, math.ceil(count / ROWS))
        picked = sorted({*range(count - 1, -1, -step), 0}) if count else []
        return [(shown.rounds[i], [line.values[i] for line in shown.lines]) for i in picked]


def pick(columns: Sequence[Sequence[Value]], count: int, most: int = MOST) -> list[int]:
    """Indices of at most `most` of `count` points: of each bucket its least and greatest.

    By the first column that has values, so that what sticks out is drawn; ends are kept.
    """
    if count <= most:
        return list(range(count))
    lead = next((column for column in columns if any(v is not None for v in column)), columns[0])
    buckets, kept = most // 2 - 1, {0, count - 1}
    for bucket in range(buckets):
        start, end = bucket * count // buckets, (bucket + 1) * count // buckets
        known = [i for i in range(start, end) if lead[i] is not None] or [start]
        kept |= {min(known, key=lambda i: lead[i] or 0.0), max(known, key=lambda i: lead[i] or 0.0)}
    return sorted(kept)


def _finite(value: Value) -> Value:
    """Six digits: more are no pixels."""
    return float(f"{value:.6g}") if value is not None and math.isfinite(value) else None
