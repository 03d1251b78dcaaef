"""Membership: can those who see an update tell what was trained on from what was not?

Three scores of a sample, higher for members: its error of prediction after training
(arXiv:1709.01604), how far that fell from the base to the trained model (calibrated:
arXiv:2111.08440), and the cosine of the update with the sample's own descent half-way along it.
Losses of batches know no single sample, so each is looked at in one company of samples that the
node has not trained on, under the same seeds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from gobelin.client.leakage.update import Update
from gobelin.shared.model import build_jepa
from gobelin.shared.objective import Draw, LossParts
from gobelin.shared.recipe import Recipe
from gobelin.shared.seeds import derive_seed, generator_of
from gobelin.shared.vector import ParameterVector

COMPANY = 7  # samples that each one is looked at with
DRAWS = 4  # of views, over which a loss is averaged
FEWEST = 8  # members that a figure is given for
FALSE_POSITIVES = 0.01


@dataclass(frozen=True)
class Separation:
    """How well a score tells members from others."""

    auc: float  # 0.5 is chance
    tpr: float  # share of members found where at most 1 % of the others are taken for one
    members: int
    others: int


def separate(members: Tensor, others: Tensor) -> Separation:
    """Of scores (n,) and (m,), higher for members; ties count half in the AUC."""
    n, m = len(members), len(others)
    above = (members[:, None] > others[None]).double() + (members[:, None] == others[None]) / 2
    allowed = int(FALSE_POSITIVES * m)  # others that may lie above the threshold
    threshold = others.sort(descending=True).values[allowed]
    found = (members > threshold).double().mean().item()
    return Separation(above.double().mean().item(), found, n, m)


def tell_apart(
    scores_in: Mapping[str, Tensor], scores_out: Mapping[str, Tensor]
) -> dict[str, Separation]:
    """Each score's separation."""
    return {name: separate(scores_in[name], scores_out[name]) for name in scores_in}


class Scorer:
    """Scores of samples under one update; `company` (COMPANY, ...) are raw, and outside of it."""

    def __init__(
        self, recipe: Recipe, modality: str | None, update: Update, company: Tensor
    ) -> None:
        self._recipe, self._modality, self._update = recipe, modality, update
        self._company, self._objective = company, recipe.objective_of(modality)
        self._model = build_jepa(recipe, seed=0).train()
        self._encoder = self._model.encoder(modality)

    def scores(self, samples: Tensor) -> dict[str, Tensor]:
        """loss, drop and direction, each (n,) of raw samples (n, ...)."""
        before = self._losses(self._update.base, samples)
        after = self._losses(self._update.trained, samples)
        direction = self._directions(samples)
        return {"loss": -after, "drop": before - after, "direction": direction}

    @torch.no_grad()
    def _losses(self, at: ParameterVector, samples: Tensor) -> Tensor:
        self._go_to(at)
        draws = range(DRAWS)
        losses = [[self._parts(each, draw).prediction for draw in draws] for each in samples]
        return torch.tensor(losses).double().mean(dim=1)

    def _directions(self, samples: Tensor) -> Tensor:
        self._go_to(self._update.middle)
        own = {id(p) for p in self._encoder.parameters()}
        tensors = self._update.delta.tensors()
        trained = [(p, tensors[n]) for n, p in self._model.named_parameters() if id(p) in own]
        found = []
        for sample in samples:
            grads = torch.autograd.grad(self._parts(sample, 0).total, [p for p, _ in trained])
            pairs = zip(grads, trained, strict=True)
            dot = -sum((g * moved).sum().double() for g, (_, moved) in pairs)
            length = sum(g.square().sum().double() for g in grads) ** 0.5
            found.append(dot / (length + 1e-30))
        return torch.stack([torch.as_tensor(value) for value in found]).double()

    def _go_to(self, at: ParameterVector) -> None:
        at.load_into(self._model)
        self._objective.begin(self._encoder)

    def _parts(self, sample: Tensor, draw: int) -> LossParts:
        """Of one sample in its company, under the same views and slices for every sample."""
        seed = derive_seed(self._update.local.seed, "membership", draw)
        seeds = Draw(generator_of(seed, "views"), derive_seed(seed, "slices"))
        batch = torch.cat([sample[None], self._company])
        return self._objective(self._encoder, batch, seeds)[0]
