"""Out-of-distribution shift: what a probe fitted on clean samples still tells of corrupted ones.

Neither the model nor the head has seen a corruption: they are held out. Text and series have
shifts of their own; what a corrupted action or a state vector would be, nobody has said, and
trajectories are refused.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gobelin.shared.data import (
    BadInput,
    Format,
    ImageFormat,
    SeriesFormat,
    Source,
    Subset,
    TextFormat,
    VideoFormat,
)
from gobelin.shared.errors import ConfigError
from gobelin.shared.evaluation.corrupted_sequences import SERIES, TEXT, corrupt_series, corrupt_text
from gobelin.shared.evaluation.corruptions import PICTURES, SEVERITIES, corrupt_pictures
from gobelin.shared.evaluation.embed import draw
from gobelin.shared.evaluation.probes import fit_head, require_labelled
from gobelin.shared.modality import AnyModality
from gobelin.shared.seeds import generator_of

SAMPLES = 2000  # of the test data that are corrupted, in every way

Corrupt = Callable[[Tensor, str, int, torch.Generator], Tensor]
Right = Callable[[Source], Tensor]  # labelled samples → which of them are told right (N,)
Featurise = Callable[[Source, npt.NDArray[np.int64] | None], tuple[Tensor, Tensor]]

KNOWN: dict[type[Format], tuple[Sequence[str], Corrupt]] = {
    ImageFormat: (tuple(PICTURES), corrupt_pictures),
    VideoFormat: (tuple(PICTURES), corrupt_pictures),
    SeriesFormat: (tuple(SERIES), corrupt_series),
    TextFormat: (tuple(TEXT), corrupt_text),
}


@dataclass(frozen=True)
class Shift:
    """Accuracies in percent of one head, by corruption and then by severity."""

    clean: float
    corrupted: dict[str, dict[int, float]]
    samples: int

    @property
    def mean(self) -> float:
        """Over all corruptions and severities."""
        return statistics.fmean(a for found in self.corrupted.values() for a in found.values())

    @property
    def kept(self) -> float:
        """Percent of the clean accuracy that is left on average."""
        return 100 * self.mean / self.clean if self.clean else 0.0

    def facts(self) -> dict[str, Any]:
        """Plain JSON."""
        found = {name: {str(s): a for s, a in by.items()} for name, by in self.corrupted.items()}
        return {
            "clean": self.clean,
            "mean": self.mean,
            "kept": self.kept,
            "corrupted": found,
            "samples": self.samples,
        }


class Corrupted:
    """The samples of a source after one corruption at one severity, the same for every model."""

    def __init__(
        self, source: Source, corrupt: Corrupt, name: str, severity: int, seed: int
    ) -> None:
        self._source, self._corrupt, self._seed = source, corrupt, seed
        self.name, self.severity = name, severity
        self.labels, self.class_names = source.labels, source.class_names

    @property
    def block(self) -> int | None:
        """As of the source."""
        return self._source.block

    @property
    def skipped(self) -> BadInput:
        """As of the source."""
        return self._source.skipped

    def __len__(self) -> int:
        return len(self._source)

    def read(self, indices: npt.NDArray[np.int64]) -> Tensor:
        """The samples at `indices` (B,); what is random in each depends on its index alone."""
        clean = self._source.read(indices)
        each = [
            self._corrupt(sample[None], self.name, self.severity, self._random(index))
            for sample, index in zip(clean, indices.tolist(), strict=True)
        ]
        return torch.cat(each)

    def _random(self, index: int) -> torch.Generator:
        return generator_of(self._seed, "corruption", self.name, self.severity, index)


def shift(
    featurise: Featurise,  # a source and indices → features (N, F) and labels (N,)
    modality: AnyModality,
    train: Source,
    test: Source,
    classes: int,
    *,
    corruptions: Sequence[str] = (),  # all that the modality has, if none are named
    severities: Sequence[int] = SEVERITIES,
    label_budget: int,
    samples: int = SAMPLES,
    seed: int = 0,
) -> Shift:
    """Fit a linear head on clean features, and test it on `samples` clean and corrupted ones.

    Raises ConfigError on a modality without corruptions or one that is not known, DataError as
    probes do.
    """
    known_corruptions(modality, corruptions)
    _checked(severities)
    fitted = featurise(train, draw(train, label_budget, seed, "probe labels"))
    head = fit_head(*fitted, classes)

    def right(source: Source) -> Tensor:
        x, y = featurise(source, None)
        require_labelled(x, y, classes)
        return head.predict(x) == y

    return shift_of(
        right,
        modality,
        test,
        corruptions=corruptions,
        severities=severities,
        samples=samples,
        seed=seed,
    )


def shift_of(
    right: Right,
    modality: AnyModality,
    test: Source,
    *,
    corruptions: Sequence[str] = (),
    severities: Sequence[int] = SEVERITIES,
    samples: int = SAMPLES,
    seed: int = 0,
) -> Shift:
    """What is left of any classifier, such as one tuned as a whole, under the same corruptions.

    Raises as `shift` does.
    """
    names, corrupt = known_corruptions(modality, corruptions)
    severities = _checked(severities)
    part = Subset(test, draw(test, samples, seed, "corrupted samples"))

    def accuracy_of(source: Source) -> float:
        return 100 * float(right(source).double().mean())

    found = {
        name: {
            severity: accuracy_of(Corrupted(part, corrupt, name, severity, seed))
            for severity in severities
        }
        for name in names
    }
    return Shift(accuracy_of(part), found, len(part))


def _checked(severities: Sequence[int]) -> list[int]:
    bad = [s for s in severities if s not in SEVERITIES]
    if bad or not severities:
        raise ConfigError(f"severities {list(severities)}", "give some of 1, 2, 3, 4, 5")
    return sorted(set(severities))


def known_corruptions(
    modality: AnyModality, asked: Sequence[str] = ()
) -> tuple[Sequence[str], Corrupt]:
    """Those of a modality, or those asked for; raises ConfigError where it has none or not one."""
    form = type(modality.form)
    if form not in KNOWN:
        raise ConfigError(
            f"no corruptions are known for {modality.recipe.kind} data",
            "shift is measured on images, videos, series and text",
        )
    names, corrupt = KNOWN[form]
    odd = [name for name in asked if name not in names]
    if odd:
        what = f"{modality.recipe.kind} data have no corruption {odd[0]!r}"
        raise ConfigError(what, f"known: {', '.join(names)}")
    return asked or names, corrupt
