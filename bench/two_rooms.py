"""The small world model of the two-room studies: its films, a member that trains it, its error.

Two rooms and a door (`gobelin.shared.worlds`). The error is the mean distance between the true
position and the one decoded from the latent after ten steps imagined from one picture and the
actions, anywhere in the world. The decoder is a ridge readout fitted on the whole world, its
positions clipped to the world.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn

from bench.sketch import Sketch
from gobelin.shared.objective.sigreg import collapse_score, sigreg
from gobelin.shared.seeds import derive_seed, generator_of
from gobelin.shared.worlds import WORLD, Box, Episodes, TwoRoom

EPISODES, LENGTH = 1500, 12  # a member's, and actions in each
BATCH, WINDOW = 64, 6  # windows a step, and actions in each
DIM, LR, WARMUP, CLIP = 32, 6e-3, 50, 1.0
WEIGHT, REFERENCE = 0.05, 128  # λ, and the N the statistic is normalised to
SLICES, KNOTS, T_MAX = 128, 17, 3.0
SKETCH_SLICES, SKETCH_SAMPLES = 1024, 512
HORIZON, TEST_EPISODES = 10, 400
TWO_ROOM = TwoRoom()

Slices = Callable[[int], tuple[Tensor, tuple[Tensor, Tensor] | None]]  # step → (D, M), offset
# changes the gradients of a step, before clipping
Correction: TypeAlias = "Callable[[WorldModel], None]"


class WorldModel(nn.Module):
    """Pictures (N, 1, 32, 32) → z (N, 32), and a residual predictor of the next z; no BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(1, 16, 8, 4, 2), nn.GELU(), nn.Conv2d(16, 32, 2, 2), nn.GELU(),
            nn.Flatten(), nn.Linear(512, 128), nn.GELU(), nn.Linear(128, DIM),
        )  # fmt: skip
        self.change = nn.Sequential(
            nn.Linear(DIM + 2, 128), nn.GELU(), nn.Linear(128, 128), nn.GELU(), nn.Linear(128, DIM)
        )

    def encode(self, pictures: Tensor) -> Tensor:
        """Latents (..., D) of pictures uint8 (..., 1, H, W)."""
        z: Tensor = self.encoder(pictures.flatten(0, -4).float() / 64)
        return z.view(*pictures.shape[:-3], DIM)

    def predict(self, z: Tensor, actions: Tensor) -> Tensor:
        """Next latents of z (..., D) after actions (..., 2)."""
        change: Tensor = self.change(torch.cat([z, 10 * actions], dim=-1))
        return z + change

    def imagine(self, z: Tensor, actions: Tensor) -> Tensor:
        """Latents (N, T, D) imagined from z (N, D) through actions (N, T, 2)."""
        states = [z]
        for t in range(actions.shape[1]):
            states.append(self.predict(states[-1], actions[:, t]))
        return torch.stack(states[1:], dim=1)


@dataclass(frozen=True, eq=False)
class Film:
    """Episodes with their pictures: (E, T + 1, 1, H, W) uint8, (E, T, 2), (E, T + 1, 2)."""

    pictures: Tensor
    actions: Tensor
    positions: Tensor

    @classmethod
    def of(cls, region: Box, count: int, seed: int) -> Film:
        """Film of `count` new episodes inside a region."""
        episodes: Episodes = TWO_ROOM.episodes(count, LENGTH, seed, region)
        flat = torch.from_numpy(TWO_ROOM.render(episodes.positions.reshape(-1, 2)))
        pictures = flat.view(count, LENGTH + 1, *flat.shape[1:])
        positions, actions = map(torch.from_numpy, (episodes.positions, episodes.actions))
        return cls(pictures, actions, positions)

    @classmethod
    def cat(cls, films: Sequence[Film]) -> Film:
        """All films in one place."""
        return cls(
            torch.cat([f.pictures for f in films]),
            torch.cat([f.actions for f in films]),
            torch.cat([f.positions for f in films]),
        )

    def windows(self, random: torch.Generator) -> tuple[Tensor, Tensor]:
        """A batch of windows: pictures (B, W + 1, 1, H, W') and actions (B, W, 2)."""
        which = torch.randint(len(self.actions), (BATCH, 1), generator=random)
        start = torch.randint(LENGTH - WINDOW + 1, (BATCH, 1), generator=random)
        when = start + torch.arange(WINDOW + 1)
        return self.pictures[which, when], self.actions[which, when[:, :-1]]

    def frames(self, count: int, random: torch.Generator) -> Tensor:
        """`count` pictures (N, 1, H, W)."""
        which = torch.randint(len(self.actions), (count,), generator=random)
        when = torch.randint(LENGTH + 1, (count,), generator=random)
        return self.pictures[which, when]


class Member:
    """A member's film, model and inner optimizer, warm between rounds."""

    def __init__(self, film: Film, seed: int, steps: int, lr: float) -> None:
        self.film, self.seed, self.steps, self.lr = film, seed, steps, lr
        self.model = WorldModel()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), weight_decay=1e-3, fused=True)
        self.corrections: list[Correction] = []

    def train(self, start: int, stop: int, slices: Slices) -> None:
        """Local steps `start` to `stop` of the federation's schedule, with their slices."""
        for step in range(start, stop):
            pace = min(1.0, (step + 1) / WARMUP) * (1 + math.cos(math.pi * step / self.steps)) / 2
            self.optimizer.param_groups[0]["lr"] = self.lr * pace
            pictures, actions = self.film.windows(generator_of(self.seed, "windows", step))
            loss = self.loss(self.model.encode(pictures), actions, *slices(step))
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            for correct in self.corrections:
                correct(self.model)
            nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
            self.optimizer.step()

    def loss(
        self, z: Tensor, actions: Tensor, drawn: Tensor, offset: tuple[Tensor, Tensor] | None
    ) -> Tensor:
        """One-step and imagined error of z (B, W + 1, D), and SIGReg over all its time steps."""
        one_step = (self.model.predict(z[:, :-1], actions) - z[:, 1:]).square().mean()
        imagined = (self.model.imagine(z[:, 0], actions) - z[:, 1:]).square().mean()
        flat = z.flatten(0, 1)
        score = collapse_score(sigreg(flat, drawn, KNOTS, T_MAX, offset), len(flat))
        return one_step + imagined + WEIGHT * REFERENCE * score

    @torch.no_grad()
    def projections(self, number: int) -> Tensor:
        """Latents (N, D) of a round's sample of this member's pictures, by the model as it is."""
        random = generator_of(self.seed, "sketch", number)
        return self.model.encode(self.film.frames(SKETCH_SAMPLES, random))

    def sketch(self, number: int, seed: int) -> Sketch:
        """The sketch of those latents under the round's slices."""
        seed = derive_seed(seed, "sketch", number)
        return Sketch.of(self.projections(number), seed, SKETCH_SLICES, KNOTS, T_MAX)


@torch.no_grad()
def error_of(model: WorldModel) -> dict[str, float]:
    """Position error over the whole world: `imagined` after ten steps, `decoded` of real frames."""
    fit, test = Film.of(WORLD, TEST_EPISODES, 10_001), Film.of(WORLD, TEST_EPISODES, 10_002)
    z = biased(model.encode(fit.pictures).flatten(0, 1))  # (N, D + 1)
    ridge = 1e-3 * torch.eye(DIM + 1, dtype=torch.float64)
    readout = torch.linalg.solve(z.T @ z + ridge, z.T @ fit.positions.flatten(0, 1).double())
    frames = model.encode(test.pictures)  # (E, T + 1, D)
    imagined = model.imagine(frames[:, 0], test.actions[:, :HORIZON])[:, -1]
    true, last = test.positions, test.positions[:, HORIZON]

    def off(z: Tensor, positions: Tensor) -> float:
        # Nothing is outside of the world, so a readout that extrapolates wildly gains no weight.
        decoded = (biased(z) @ readout).clamp(0, 1)
        return float((decoded - positions).norm(dim=-1).mean())

    still = float((true[:, 0] - last).norm(dim=-1).mean())
    return {"imagined": off(imagined, last), "decoded": off(frames, true), "still": still}


def biased(z: Tensor) -> Tensor:
    """z (..., D) in fp64 with a last column of ones."""
    return torch.cat([z.double(), z.new_ones(*z.shape[:-1], 1).double()], dim=-1)
