"""Identification: which of many samples a view, or a foreseen latent, is of. It needs no labels.

Losses of two models do not compare: each measures errors in a latent space of its own, and where
all is one point there are none. Whether the nearest of N candidates is the right one is the same
question to every model: turning or stretching the latent space changes nothing, chance is 1 / N,
and one point for all finds none. It is the test of contrastive learning (arXiv:1807.03748,
arXiv:2002.05709), asked of frozen features.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from gobelin.shared.data import Batch, Trajectories
from gobelin.shared.errors import ShapeError
from gobelin.shared.evaluation.embed import at_rest
from gobelin.shared.model import Encoder
from gobelin.shared.model.predictor import Predictor
from gobelin.shared.model.world_model import WorldModel
from gobelin.shared.seeds import generator_of

CANDIDATES = 256  # that a sample is looked for among, at most


@torch.no_grad()
def identify(encoder: Encoder, batch: Batch, seed: int) -> Tensor:
    """For each of N raw samples whether it is the nearest candidate: bool (N,), on the CPU.

    Of two views of all samples, the second of each is looked for among the first; of trajectories
    under a world model, what the last observation really is among what was foreseen for each. The
    same views for every model.
    """
    with at_rest(encoder):
        if isinstance(batch, Trajectories) and isinstance(encoder.predictor, Predictor):
            made, wanted = _foreseen(WorldModel(encoder), batch)
        else:
            made, wanted = (_view(encoder, batch, seed, which) for which in ("first", "second"))
    return nearest(wanted, made).cpu()


def nearest(queries: Tensor, candidates: Tensor) -> Tensor:
    """Whether candidate i is query i's nearest by cosine, of centred (N, D) each: bool (N,).

    A tie is no hit: where all candidates are one point, none is found. Raises ShapeError on
    sets that do not pair, or of fewer than two.
    """
    if queries.shape != candidates.shape or queries.ndim != 2 or len(queries) < 2:
        found = f"{tuple(queries.shape)} among {tuple(candidates.shape)}"
        raise ShapeError(f"{found} cannot be looked for", "give two sets (N, D) with N ≥ 2")
    centre = candidates.double().mean(dim=0)
    cosine = _direction(queries.double() - centre) @ _direction(candidates.double() - centre).T
    right = cosine.diagonal().clone()
    cosine.fill_diagonal_(-torch.inf)
    return right > cosine.amax(dim=1) + 1e-9


def _direction(x: Tensor) -> Tensor:
    return F.normalize(x, dim=1)


def _view(encoder: Encoder, batch: Batch, seed: int, which: str) -> Tensor:
    """Pooled features (N, D) of one view of each sample."""
    views = encoder.modality.views(batch, generator_of(seed, "identification", which))
    return encoder.features(views.stacks[0][0]).float()


def _foreseen(model: WorldModel, batch: Trajectories) -> tuple[Tensor, Tensor]:
    """Latents (N, P) rolled out to the last observation, and its own."""
    flat = model.encode(batch.observations.flatten(0, 1))
    latents = flat.view(len(batch), -1, flat.shape[1])  # (N, T + 1, P)
    foreseen = model.rollout(latents[:, 0], batch.actions[:, None])[:, 0, -1]
    return foreseen, latents[:, -1]
