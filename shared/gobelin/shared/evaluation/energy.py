"""Energy: how implausible a candidate is, given a context. Low = plausible.

One function for every modality. Where there are actions it is the error of prediction, as LeWM's
surprise (arXiv:2603.19312); elsewhere how far the candidate's projection lies from the context's
centre, which is what LeJEPA (arXiv:2511.08544) makes small for views of one sample.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from gobelin.shared.data.trajectories import Batch, Trajectories
from gobelin.shared.errors import DataError
from gobelin.shared.evaluation.embed import at_rest
from gobelin.shared.modality.modality import Views
from gobelin.shared.model.encoder import Encoder
from gobelin.shared.model.world_model import WorldModel
from gobelin.shared.seeds import generator_of


def energy(encoder: Encoder, context: Batch, candidate: Batch, seed: int = 0) -> Tensor:
    """Energies (B,) of B candidates, each given its own context; raw samples of one modality.

    Trajectories: the candidate goes on from the context's last observation, which is its first
    one; the energy is the mean squared error of each of its observations, foreseen one step ahead.
    Other modalities: the mean squared distance of the candidate's projection from the mean
    projection of the context's leading views, which `seed` draws. Where the projector's norm is
    over the batch, all B are judged together, and B is at least 2.

    Raises DataError where the two are not of this modality, or do not fit together.
    """
    if isinstance(context, Trajectories) and isinstance(candidate, Trajectories):
        return _of_continuation(WorldModel(encoder), context, candidate)
    return _of_view(encoder, context, candidate, seed)


def _of_continuation(model: WorldModel, context: Trajectories, candidate: Trajectories) -> Tensor:
    modality = model.encoder.modality
    modality.check(context)
    modality.check(candidate)
    before, after = context.observations, candidate.observations
    if before.shape[0] != after.shape[0] or before.shape[2:] != after.shape[2:]:
        found = f"{tuple(after.shape)} after {tuple(before.shape)}"
        raise DataError(f"candidates are {found}", "give as many as contexts, of the same sizes")
    if not candidate.actions.shape[1]:
        raise DataError("a candidate has no action", "give one step at least")
    if not torch.equal(before[:, -1], after[:, 0]):
        what = "a candidate does not begin where its context ends"
        raise DataError(what, "its first observation is the context's last")
    joined = Trajectories(
        torch.cat([before, after[:, 1:]], dim=1),
        torch.cat([context.actions, candidate.actions], dim=1),
    )
    return model.surprise(joined)[:, -candidate.actions.shape[1] :].mean(dim=1)


@torch.no_grad()
def _of_view(encoder: Encoder, context: Batch, candidate: Batch, seed: int) -> Tensor:
    modality = encoder.modality
    modality.check(context)
    modality.check(candidate)
    if len(context) != len(candidate):
        what = f"{len(candidate)} candidates for {len(context)} contexts"
        raise DataError(what, "give as many as contexts")
    if len(context) < 2 and _norm_is_over_batch(encoder):
        what = "one sample alone has no batch statistics, which this projector works with"
        raise DataError(what, "judge several together")
    views = modality.views(context, generator_of(seed, "energy views"))
    stacks = [*_leading(views), modality.prepare(candidate).unsqueeze(0)]
    with at_rest(encoder):
        _, z = encoder.embed_views(stacks)  # (leading + 1, B, P)
    centre, own = z[:-1].float().mean(dim=0), z[-1].float()
    return (centre - own).square().mean(dim=-1)


def _leading(views: Views) -> Iterator[Tensor]:
    """The stacks (V_i, B, ...) of the leading views alone."""
    left = views.leading
    for stack in views.stacks:
        if left > 0:
            yield stack[:left]
        left -= len(stack)


def _norm_is_over_batch(encoder: Encoder) -> bool:
    layers = encoder.projector.modules()
    return any(isinstance(layer, torch.nn.BatchNorm1d) for layer in layers)
