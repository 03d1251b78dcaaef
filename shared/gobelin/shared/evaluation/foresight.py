"""Foresight: how far what a world model imagines is from what happens, in the world's own units."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gobelin.shared.model.world_model import WorldModel
from gobelin.shared.seeds import derive_seed
from gobelin.shared.worlds import TwoRoom

HORIZON, EPISODES = 10, 400
RIDGE = 1e-3


@dataclass(frozen=True)
class Foresight:
    """Mean distances over the whole world; positions are read out of latents by ridge regression,
    fitted on episodes of the whole world that the errors are not measured on."""

    imagined: float  # after HORIZON steps of rolling out from one picture
    decoded: float  # of a picture that is there: how well latents say where it is
    still: float  # of saying that nothing moves


@torch.no_grad()
def foresight(
    model: WorldModel, world: TwoRoom, seed: int = 0, device: torch.device | str = "cpu"
) -> Foresight:
    """Judge a model (on `device`) on the whole world; the same episodes for every model."""
    fit, _ = _latents(model, world, derive_seed(seed, "fit"), device)
    readout = fit_readout(*fit)
    (frames, positions), actions = _latents(model, world, derive_seed(seed, "test"), device)
    imagined = model.rollout(frames[:, 0].to(device), actions[:, None].to(device))[:, 0, -1].cpu()

    def off(z: Tensor, truth: Tensor) -> float:
        # Nothing is outside of the world, so a readout that extrapolates wildly gains no weight.
        return float(((with_ones(z) @ readout).clamp(0, 1) - truth).norm(dim=-1).mean())

    return Foresight(
        imagined=off(imagined, positions[:, -1]),
        decoded=off(frames, positions),
        still=float((positions[:, 0] - positions[:, -1]).norm(dim=-1).mean()),
    )


def _latents(
    model: WorldModel, world: TwoRoom, seed: int, device: torch.device | str
) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """Latents (E, T + 1, P) with positions (E, T + 1, 2), and actions (E, T, 2), of episodes."""
    episodes = world.episodes(EPISODES, HORIZON, seed)
    positions = torch.from_numpy(episodes.positions)
    latents = []
    for part in torch.split(positions.flatten(0, 1), 1024):
        pictures = torch.from_numpy(world.render(part.numpy()))
        latents.append(model.encode(pictures.to(device)).cpu())
    z = torch.cat(latents).view(*positions.shape[:2], -1)
    return (z, positions), torch.from_numpy(episodes.actions)


def fit_readout(z: Tensor, states: Tensor) -> Tensor:
    """Ridge regression (P + 1, S) from latents (..., P) to states (..., S), fp64."""
    known, truth = with_ones(z).flatten(0, -2), states.flatten(0, -2).double()
    ridge = RIDGE * torch.eye(known.shape[1], dtype=torch.float64)
    solved: Tensor = torch.linalg.solve(known.T @ known + ridge, known.T @ truth)
    return solved


def with_ones(z: Tensor) -> Tensor:
    """z (..., P) in fp64 with a last column of ones."""
    return torch.cat([z.double(), z.new_ones(*z.shape[:-1], 1).double()], dim=-1)
