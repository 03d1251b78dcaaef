"""The report of a sovereign build: what it is worth to its region, and what it has cost.

The same for a new build, a rebased one and a merged one: contenders by role, of which `sovereign`
is the one to be signed, all asked the same questions on the same test data.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from gobelin.client.sovereign.gate import Judgement
from gobelin.shared.errors import ConfigError
from gobelin.shared.evaluation.benchmarks import Benchmark, Classification, Contender, Measured
from gobelin.shared.evaluation.calibration import Calibration, calibration
from gobelin.shared.evaluation.corruptions import SEVERITIES
from gobelin.shared.evaluation.embed import require_labels
from gobelin.shared.evaluation.intervals import (
    CONFIDENCE,
    RESAMPLES,
    Indices,
    Interval,
    Mean,
    Statistic,
    difference,
    interval,
)
from gobelin.shared.evaluation.shift import KNOWN, Shift
from gobelin.shared.settings import Positive, Settings

FORMAT = "gobelin.evaluation.v1"
PATHS = {"general", "solo"}  # settings that say where things lie on this machine
SOVEREIGN = "sovereign"
TITLES = {
    SOVEREIGN: "sovereign model",
    "consensus": "consensus + probe",
    "scratch": "same build, from scratch",
    "solo": "solo model + probe",
}

# A build on other training samples: its role (sovereign or scratch), which samples → the model.
Rebuild = Callable[[str, Indices], Contender]


class EvaluationSettings(Settings):
    """The table `[evaluation]`: whom the build is compared with, on what, and how closely."""

    report: bool = True  # false: sign without having measured
    general: tuple[Path, ...] = ()  # the consensus's own benchmarks: labelled samples, or episodes
    solo: Path | None = None  # checkpoint of a model that the region trained alone
    scratch: bool = True  # compare with the same build from random weights
    anomalous: tuple[str, ...] = ()  # classes to be found: the task is then anomaly detection
    horizon: Positive = 10  # steps a world model is asked to foresee
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = CONFIDENCE  # of two-sided intervals
    resamples: Annotated[int, Field(ge=100)] = RESAMPLES  # of the bootstrap behind each interval
    samples: Positive = 10_000  # test samples at most
    labels: Annotated[int, Field(ge=2)] = 20_000  # a probe is fitted on at most
    shots: tuple[Positive, ...] = (1, 2, 5, 10)  # labels a class of the few-shot curve; (): none
    draws: Positive = 3  # of the labels at each point, for probes of frozen models
    rebuilds: Annotated[int, Field(ge=0)] = 1  # draws the build itself is repeated for; 0: never
    # of the corruptions, 1 (light) to 5
    severities: tuple[Annotated[int, Field(ge=1, le=max(SEVERITIES))], ...] = (1, 3, 5)
    shifted_samples: Annotated[int, Field(ge=0)] = 500  # that are corrupted in every way; 0: none
    seed: int = 0  # of the draws and the bootstrap

    def plain(self) -> dict[str, Any]:
        """As JSON, without where things lie on this machine."""
        return self.model_dump(mode="json", exclude=PATHS)


@dataclass(frozen=True)
class Found:
    """One contender's figures in the regional task."""

    role: str
    title: str
    figures: Mapping[str, Interval]  # the first is the headline
    facts: Mapping[str, Any] = field(default_factory=dict)
    calibration: Calibration | None = None
    shift: Shift | None = None

    def plain(self) -> dict[str, Any]:
        """Plain JSON."""
        return {
            "role": self.role,
            "title": self.title,
            "figures": {name: figure.facts() for name, figure in self.figures.items()},
            "facts": dict(self.facts),
            "calibration": self.calibration and self.calibration.facts(),
            "shift": self.shift and self.shift.facts(),
        }


@dataclass(frozen=True)
class Kept:
    """One general benchmark before and after: what the build has forgotten."""

    name: str
    figure: str
    consensus: Interval
    sovereign: Interval
    lost: Interval  # points; below 0: it gained

    def plain(self) -> dict[str, Any]:
        """Plain JSON."""
        figures = {n: getattr(self, n).facts() for n in ("consensus", "sovereign", "lost")}
        return {"name": self.name, "figure": self.figure, **figures}


@dataclass(frozen=True)
class Point:
    """A contender's accuracy at so many labels a class, the mean over draws of them."""

    role: str
    shots: int
    accuracy: Interval  # over the test samples
    deviation: float | None  # over the draws; None for a single one
    draws: int

    def plain(self) -> dict[str, Any]:
        """Plain JSON."""
        return {**vars(self), "accuracy": self.accuracy.facts()}


@dataclass(frozen=True)
class Report:
    """All that was found, and what the gate says of it."""

    name: str  # of the regional task
    kind: str
    units: str
    found: tuple[Found, ...]  # the sovereign model first
    gains: Mapping[str, Interval]  # of the sovereign model over each other, in the headline
    general: tuple[Kept, ...]
    curve: tuple[Point, ...]
    settings: EvaluationSettings
    facts: Mapping[str, str] = field(default_factory=dict)  # lineage, digests, ... as shown
    notes: tuple[str, ...] = ()
    class_names: tuple[str, ...] = ()
    gate: tuple[Judgement, ...] = ()

    @property
    def headline(self) -> str:
        """The name of the figure the task is judged by."""
        return next(iter(self.found[0].figures))

    @property
    def figures(self) -> dict[str, Interval]:
        """What floors are judged on, by name."""
        mine = self.found[0]
        told = dict(mine.figures)
        told |= {f"gain_over_{role}": gain for role, gain in self.gains.items()}
        if mine.calibration is not None:
            told |= {name: getattr(mine.calibration, name) for name in ("ece", "brier", "nll")}
        if self.general:
            worst = max(self.general, key=lambda kept: kept.lost.high)
            told["points_lost_general"] = worst.lost
        return told

    def judged(self, judgements: Sequence[Judgement]) -> Report:
        """The same with the gate's word."""
        return replace(self, gate=tuple(judgements))

    def summary(self) -> dict[str, Any]:
        """What the lineage says of it: the figures and the gate, without the curves."""
        return {
            "kind": self.kind,
            "confidence": self.settings.confidence,
            "figures": {name: figure.facts() for name, figure in self.figures.items()},
            "gate": [each.facts() for each in self.gate],
        }

    def plain(self) -> dict[str, Any]:
        """evaluation.json."""
        return {
            "format": FORMAT,
            "task": {
                "name": self.name,
                "kind": self.kind,
                "units": self.units,
                "headline": self.headline,
                "classes": list(self.class_names),
            },
            "found": [each.plain() for each in self.found],
            "gains": {role: gain.facts() for role, gain in self.gains.items()},
            "general": [kept.plain() for kept in self.general],
            "few_shot": [point.plain() for point in self.curve],
            "gate": [each.facts() for each in self.gate],
            "settings": self.settings.plain(),
            "facts": dict(self.facts),
            "notes": list(self.notes),
        }


def evaluate_build(
    task: Benchmark,
    contenders: Mapping[str, Contender],  # by role; `sovereign`, and others as there are
    *,
    general: Sequence[Benchmark] = (),
    rebuild: Rebuild | None = None,
    settings: EvaluationSettings | None = None,
    facts: Mapping[str, str] | None = None,
    notes: Sequence[str] = (),
) -> Report:
    """Ask all contenders; the general benchmarks ask the sovereign model and the consensus.

    General benchmarks read frozen features, so both get new probes there. Raises ConfigError
    without a sovereign model, or with general benchmarks and no consensus, and DataError as the
    benchmarks do.
    """
    settings = settings or EvaluationSettings()
    if SOVEREIGN not in contenders:
        raise ConfigError("no model is called sovereign", "name the one that is to be signed")
    if general and "consensus" not in contenders:
        raise ConfigError("without the consensus nothing can be lost", "give its release")
    roles = [SOVEREIGN, *(role for role in contenders if role != SOVEREIGN)]
    measured = {role: task.measure(contenders[role]) for role in roles}
    shifts, shifted = _shifts(task, contenders, roles, settings)
    options = _options(settings)
    found = []
    for role in roles:
        figures = {n: interval(s, **options) for n, s in measured[role].figures.items()}
        if role in shifted:
            figures["accuracy_shifted"] = interval(shifted[role], **options)
        title = title_of(role, task.kind)
        of = measured[role]
        found.append(
            Found(role, title, figures, of.facts, _calibrated(of, options), shifts.get(role))
        )
    headline = next(iter(measured[SOVEREIGN].figures))
    first = measured[SOVEREIGN].figures[headline]
    gains = {
        role: difference(first, measured[role].figures[headline], **options) for role in roles[1:]
    }
    whole = {role: measured[role].figures[headline] for role in roles}
    names = task.test.class_names if isinstance(task, Classification) else None
    return Report(
        name=task.name,
        kind=task.kind,
        units=task.units,
        found=tuple(found),
        gains=gains,
        general=tuple(_kept(each, contenders, options) for each in general),
        curve=tuple(_curve(task, contenders, whole, rebuild, settings)),
        settings=settings,
        facts=dict(facts or {}),
        notes=tuple(notes),
        class_names=names or (),
    )


def title_of(role: str, kind: str) -> str:
    """What a contender is called in a task of a kind."""
    title = TITLES.get(role, role)
    # No other task needs a probe.
    return title if kind == Classification.kind else title.removesuffix(" + probe")


def _options(settings: EvaluationSettings) -> dict[str, Any]:
    return {
        "confidence": settings.confidence,
        "resamples": settings.resamples,
        "seed": settings.seed,
    }


def _calibrated(measured: Measured, options: Mapping[str, Any]) -> Calibration | None:
    if measured.logits is None or measured.labels is None:
        return None
    return calibration(measured.logits, measured.labels, **options)


def _shifts(
    task: Benchmark,
    contenders: Mapping[str, Contender],
    roles: Sequence[str],
    settings: EvaluationSettings,
) -> tuple[dict[str, Shift], dict[str, Statistic]]:
    """Where the task is to classify data that corruptions are known of."""
    wanted = settings.shifted_samples and settings.severities
    if not wanted or not isinstance(task, Classification):
        return {}, {}
    if type(contenders[SOVEREIGN].encoder.modality.form) not in KNOWN:
        return {}, {}
    found = {
        role: task.shift(contenders[role], settings.severities, settings.shifted_samples)
        for role in roles
    }
    return {r: shift for r, (shift, _) in found.items()}, {r: s for r, (_, s) in found.items()}


def _kept(
    benchmark: Benchmark, contenders: Mapping[str, Contender], options: Mapping[str, Any]
) -> Kept:
    before, after = (
        benchmark.measure(replace(contenders[role], head=None)).figures
        for role in ("consensus", SOVEREIGN)
    )
    figure = next(iter(before))
    return Kept(
        name=benchmark.name,
        figure=figure,
        consensus=interval(before[figure], **options),
        sovereign=interval(after[figure], **options),
        lost=difference(before[figure], after[figure], **options),
    )


def _curve(
    task: Benchmark,
    contenders: Mapping[str, Contender],
    measured: Mapping[str, Statistic],  # their accuracies, as they are
    rebuild: Rebuild | None,
    settings: EvaluationSettings,
) -> list[Point]:
    """Frozen models under a probe at few labels, and the build itself repeated on them."""
    if not isinstance(task, Classification) or not settings.shots:
        return []
    counts = require_labels(task.train).bincount(minlength=task.classes)
    shots = sorted({each for each in settings.shots if each <= int(counts.max())})
    points = []
    for role, contender in contenders.items():
        if role != SOVEREIGN and contender.head is None:
            found = task.few_shot(contender, shots, settings.draws)
            points += [_point(role, each, found[each], settings) for each in shots]
    if rebuild is not None and settings.rebuilds:
        for role in (SOVEREIGN, "scratch"):
            if role not in contenders:
                continue
            # A build holds labels out, one of a class at least; with all of them it was made.
            for each in (n for n in shots if 2 <= n < int(counts.max())):
                again = (rebuild(role, task.few(each, n)) for n in range(settings.rebuilds))
                values = [task.measure(model).figures["accuracy"] for model in again]
                points.append(_point(role, each, values, settings))
            points.append(_point(role, int(counts.max()), [measured[role]], settings))
    order = list(contenders)
    return sorted(points, key=lambda point: (order.index(point.role), point.shots))


def _point(
    role: str, shots: int, values: Sequence[Statistic], settings: EvaluationSettings
) -> Point:
    whole = np.arange(len(values[0].strata))
    each = [value.of(whole) for value in values]
    if len(values) == 1:
        return Point(role, shots, interval(values[0], **_options(settings)), None, 1)
    hits = np.mean([value.hits for value in values], axis=0)  # type: ignore[attr-defined]
    mean = interval(Mean(100 * hits), **_options(settings))
    return Point(role, shots, mean, statistics.stdev(each), len(each))
