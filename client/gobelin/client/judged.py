"""A checkpoint beside labelled data, opened for `gobelin evaluate`, and what is asked of both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from gobelin.shared.checkpoint import Checkpoint, read_checkpoint
from gobelin.shared.data import Source
from gobelin.shared.errors import ConfigError, GobelinError
from gobelin.shared.evaluation.embed import draw, embed, raw, require_device
from gobelin.shared.evaluation.evaluate import LABELS, count_classes
from gobelin.shared.evaluation.health_report import HealthReport, report_health
from gobelin.shared.evaluation.label_curves import model_curves, raw_curves
from gobelin.shared.evaluation.plots import require_format
from gobelin.shared.evaluation.sample_efficiency import CurvePoint
from gobelin.shared.evaluation.shift import Shift, known_corruptions, shift
from gobelin.shared.modality import AnyModality
from gobelin.shared.model import Encoder, encoder_of
from gobelin.shared.objective import Objective, ObjectiveRecipe


class CollapsedError(GobelinError):
    """The model's representation has collapsed."""

    code, exit_code = "collapsed", 35


@dataclass(frozen=True)
class Judged:
    """One way through a checkpoint, and data that it has not been trained on."""

    digest: str  # of the parameter vector
    encoder: Encoder  # on the device
    objective: Objective[ObjectiveRecipe]
    train: Source[Any]
    test: Source[Any]
    device: str

    @property
    def modality(self) -> AnyModality:
        """Of the encoder."""
        return self.encoder.modality

    def curves(
        self, probes: Sequence[str], shots: Sequence[int], draws: int, seed: int
    ) -> dict[str, dict[str, list[CurvePoint]]]:
        """Accuracy by labels under each probe, of raw samples and of the model."""
        if min(shots) < 1:
            raise ConfigError(f"{min(shots)} labels a class", "give 1 or more")
        classes = count_classes(self.train)
        chosen = draw(self.train, LABELS, seed, "probe labels")
        known = embed(self.encoder, self.train, chosen, device=self.device)
        unseen = embed(self.encoder, self.test, device=self.device)
        flat = self._raw(self.train, chosen), self._raw(self.test, None)
        options: dict[str, Any] = {"draws": draws, "seed": seed}
        return {
            "raw": raw_curves(*flat, classes, probes, shots, **options),
            "model": model_curves(known, unseen, classes, probes, shots, **options),
        }

    def shift(
        self, corruptions: Sequence[str], severities: Sequence[int], labels: int, samples: int,
        seed: int,
    ) -> dict[str, Shift]:  # fmt: skip
        """What heads on tokens and on raw samples still tell of corrupted samples."""
        known_corruptions(self.modality, corruptions)  # before the labels, which may be missing
        options: dict[str, Any] = {
            "corruptions": corruptions,
            "severities": severities,
            "label_budget": labels,
            "samples": samples,
            "seed": seed,
        }
        given = self.modality, self.train, self.test, count_classes(self.train)
        return {
            "model": shift(self._tokens, *given, **options),
            "raw": shift(self._raw, *given, **options),
        }

    def _tokens(
        self, source: Source[Any], chosen: npt.NDArray[np.int64] | None
    ) -> tuple[Tensor, Tensor]:
        found = embed(self.encoder, source, chosen, device=self.device)
        return found.tokens, found.labels

    def _raw(
        self, source: Source[Any], chosen: npt.NDArray[np.int64] | None
    ) -> tuple[Tensor, Tensor]:
        return raw(self.modality, source, chosen, device=self.device)


def open_judged(
    checkpoint: Path,
    data: Path,
    test: Path,
    modality: str | None,
    device: str,
    plot: Path | None = None,
) -> Judged:
    """Open all of it; raises CheckpointError, ConfigError and DataError before any work is done,
    and where a plot could not be written."""
    found = _read(checkpoint, device, plot)
    kind = found.recipe.modality(modality)
    train = kind.open(data)
    return Judged(
        digest=found.vector.digest,
        encoder=encoder_of(found.recipe, found.vector, modality).to(device),
        objective=found.recipe.objective_of(modality),
        train=train,
        test=train if test == data else kind.open(test),
        device=device,
    )


def open_health(
    checkpoint: Path,
    base: Path | None,
    data: Path,
    modality: str | None,
    device: str,
    plot: Path | None,
    samples: int,
    seed: int,
) -> tuple[Judged, HealthReport]:
    """A checkpoint's health on data, beside that of a base; raises as `open_judged` does."""
    judged = open_judged(checkpoint, data, data, modality, device, plot)
    sound = None
    if base is not None:
        other = read_checkpoint(base)
        sound = encoder_of(other.recipe, other.vector, modality).to(device)
    report = report_health(
        judged.encoder,
        judged.objective.recipe,
        judged.test,
        base=sound,
        samples=samples,
        seed=seed,
        device=device,
    )
    return judged, report


def _read(checkpoint: Path, device: str, plot: Path | None) -> Checkpoint:
    if plot is not None:
        require_format(plot)
    require_device(device)
    return read_checkpoint(checkpoint)
