"""Quality evidence the aggregator measures itself: does a contribution still tell images apart?

A collapsed encoder can have a low loss and an ordinary norm, so neither shows it; its features
do. They are measured on images made from a seed, so the aggregator needs no data of its own, or
on those of the public probe where there is one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor

from gobelin.server.evidence import Evidence
from gobelin.server.reasons import Refusal, RefusalCode
from gobelin.shared.data import Batch
from gobelin.shared.health import deviations, effective_rank, frame_rotation
from gobelin.shared.model import Weights, hollow_jepa, lent, weights_moved, weights_of
from gobelin.shared.recipe import Recipe
from gobelin.shared.seeds import generator_of
from gobelin.shared.vector import ParameterVector

SAMPLES = 16  # a ViT-S takes about 2 s for them on one core, at every contribution
LEAST_RANK = 0.1  # of the base's effective rank
LEAST_DEVIATION = 0.01  # of the base's mean standard deviation


@dataclass(frozen=True)
class Look:
    """What a model's pooled features of the gate's images show; six digits, for the record."""

    effective_rank: float
    deviation: float  # mean standard deviation of a dimension
    frame_rotation: float  # degrees by which they lie turned against the base's


class CollapseGate:
    """Compares a contributed model's features with the base's on the same few images.

    `samples` is a raw batch (B, ...) of the modality, made up where None; `modality` need not be
    said where the recipe has only one.
    """

    def __init__(
        self,
        recipe: Recipe,
        seed: int,
        samples: Batch | None = None,
        modality: str | None = None,
    ) -> None:
        self._model = hollow_jepa(recipe)
        self._encoder = self._model.encoder(modality).eval()
        self._samples = made_up(recipe, seed, modality) if samples is None else samples
        self._base: tuple[str, Tensor] = ("", torch.empty(0))  # digest, features

    def judge(self, base: ParameterVector, delta: ParameterVector) -> Refusal | Look:
        """A refusal when base + delta has collapsed where the base has not."""
        now, before = self._look(base, weights_moved(base, delta)), self._look(base, None)
        rank, deviation = now.effective_rank, now.deviation
        if (
            rank < LEAST_RANK * before.effective_rank
            or deviation < LEAST_DEVIATION * before.deviation
        ):
            found = f"effective rank {rank:.3g}, the base's is {before.effective_rank:.3g}"
            found = f"{found}; deviation {deviation:.3g}, {before.deviation:.3g}"
            return Refusal(RefusalCode.COLLAPSE, found)
        return now

    def look(self, base: ParameterVector, vector: ParameterVector) -> Look:
        """What the model `vector` shows beside the model `base`; zeros if it is not finite."""
        return self._look(base, weights_of(vector))

    def _look(self, base: ParameterVector, weights: Weights | None) -> Look:
        """What a model shows beside `base`, which it is itself where it has no weights."""
        if self._base[0] != base.digest:
            self._base = (base.digest, self._features(weights_of(base)))
        features = self._base[1] if weights is None else self._features(weights)
        if not bool(torch.isfinite(features).all()):
            return Look(0.0, 0.0, 0.0)
        return Look(
            effective_rank=_short(effective_rank(features)),
            deviation=_short(float(deviations(features).mean())),
            frame_rotation=_short(frame_rotation(features, self._base[1])),
        )

    @torch.no_grad()
    def _features(self, weights: Weights) -> Tensor:
        """Pooled features (B, D) of the gate's samples, fp32."""
        with lent(self._model, weights):
            return self._encoder.features(self._encoder.prepare(self._samples)).float()


@dataclass(frozen=True)
class Examiner:
    """All that the aggregator itself measures of contributions, by their modality."""

    gates: Mapping[str, CollapseGate] = field(default_factory=dict)
    evidence: Mapping[str, Evidence] = field(default_factory=dict)

    def examine(
        self, base: ParameterVector, delta: ParameterVector, modality: str = ""
    ) -> Refusal | dict[str, float]:
        """A refusal, or what was measured of base + delta, by name, for the record."""
        found: dict[str, float] = {}
        if modality in self.gates:
            look = self.gates[modality].judge(base, delta)
            if isinstance(look, Refusal):
                return look
            found |= asdict(look)
        if modality in self.evidence:
            found["score"] = self.evidence[modality].score(base, delta)
            if not math.isfinite(found["score"]):
                what = "the loss of the contributed model on the probe is not finite"
                return Refusal(RefusalCode.QUALITY_FLOOR, what)
        return found

    def rotation(self, base: ParameterVector, consensus: ParameterVector) -> float | None:
        """Degrees by which the consensus's frame lies turned against the base's, if looked at.

        The most that it does on samples of any modality.
        """
        looks = [gate.look(base, consensus) for gate in self.gates.values()]
        return max((look.frame_rotation for look in looks), default=None)


def made_up(recipe: Recipe, seed: int, modality: str | None = None) -> Batch:
    """A raw batch of one of the recipe's modalities that nobody owns, from a seed."""
    made: Batch = recipe.modality(modality).made_up(SAMPLES, generator_of(seed, "collapse gate"))
    return made


def _short(value: float) -> float:
    """Six digits."""
    return float(f"{value:.6g}")
