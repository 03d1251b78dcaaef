"""Does a consensus know a world of which every member has seen a part?

Two rooms and a door (`gobelin.shared.worlds`). Member `left` has only the left room, `right` only
the right one, `door` the strip on both sides of the wall. Each trains the same small world model,
alone and federated; `pooled` has all their episodes and the same number of steps. The consensus
is plain FedAvg or has cross-node SIGReg, by characteristic-function sketches or by moments;
`_inner` averages the inner optimizer's state as well (three vectors a round instead of one).

Error: mean distance between the true position and the one decoded from the latent after ten steps
imagined from one picture and the actions, anywhere in the world. The decoder is a ridge readout
fitted on the whole world, its positions clipped to the world.

Writes bench/results/split_world.json.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from multiprocessing import get_context
from typing import Literal

import torch
from torch import Tensor, nn

from bench.measure import spread, write_result
from examples.demo import one_thread
from gobelin.server.aggregation import InMemory
from gobelin.server.merge import Counted, Merger
from gobelin.server.outer import Sgd
from gobelin.shared.objective import Moments, Offset, Sketch
from gobelin.shared.objective.sigreg import collapse_score, directions, sigreg
from gobelin.shared.seeds import derive_seed, generator_of
from gobelin.shared.vector import ParameterVector
from gobelin.shared.worlds import REGIONS, WORLD, Box, Episodes, TwoRoom

EPISODES, LENGTH = 1500, 12  # a member's, and actions in each
BATCH, WINDOW = 64, 6  # windows a step, and actions in each
DIM, LR, WARMUP, CLIP = 32, 6e-3, 50, 1.0
WEIGHT, REFERENCE = 0.05, 128  # λ, and the N the statistic is normalised to
SLICES, KNOTS, T_MAX = 128, 17, 3.0
SKETCH_SLICES, SKETCH_SAMPLES = 1024, 512
BEST = "moments_inner"  # the consensus that stands for the federation in the result's plain keys
HORIZON, TEST_EPISODES = 10, 400
CrossNode = Literal["no", "sketch", "moments"]  # what members say of a round's base first
# A consensus: the form of its cross-node SIGReg, and whether AdamW's state is averaged, too.
CONSENSUS: dict[str, tuple[CrossNode, bool]] = {
    "fedavg": ("no", False),
    "fedavg_inner": ("no", True),
    "sketch": ("sketch", False),
    "moments": ("moments", False),
    "moments_inner": ("moments", True),
}
MODELS = (*REGIONS, "pooled", *CONSENSUS)
TWO_ROOM = TwoRoom()

Slices = Callable[[int], tuple[Tensor, tuple[Tensor, Tensor] | None]]  # step → (D, M), offset


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
        return z + self.change(torch.cat([z, 10 * actions], dim=-1))

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

    def __init__(self, film: Film, seed: int, steps: int) -> None:
        self.film, self.seed, self.steps = film, seed, steps
        self.model = WorldModel()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), weight_decay=1e-3, fused=True)

    def train(self, start: int, stop: int, slices: Slices) -> None:
        """Local steps `start` to `stop` of the federation's schedule, with their slices."""
        for step in range(start, stop):
            pace = min(1.0, (step + 1) / WARMUP) * (1 + math.cos(math.pi * step / self.steps)) / 2
            self.optimizer.param_groups[0]["lr"] = LR * pace
            pictures, actions = self.film.windows(generator_of(self.seed, "windows", step))
            loss = self.loss(self.model.encode(pictures), actions, *slices(step))
            self.optimizer.zero_grad()
            loss.backward()
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


def federate(
    films: Sequence[Film],
    seed: int,
    steps: int,
    local_steps: int,
    form: CrossNode,
    inner: bool,
) -> WorldModel:
    """The consensus of members with these films; with one film, that member training alone."""
    torch.manual_seed(seed)
    base = ParameterVector.of(WorldModel())
    members = [Member(film, derive_seed(seed, "node", k), steps) for k, film in enumerate(films)]
    for number, start in enumerate(range(0, steps, local_steps)):
        for member in members:
            base.load_into(member.model)
        deltas = []
        for member, slices in zip(members, draws(members, number, seed, form), strict=True):
            member.train(start, start + local_steps, slices)
            deltas.append((ParameterVector.of(member.model) - base).values)
        counted = [Counted(str(k)) for k in range(len(members))]
        merged = Merger().merge(InMemory(deltas), counted, {})
        base = ParameterVector(base.schema, Sgd().step(base.values, merged.delta, {})[0])
        if inner:
            average_inner(members)
    base.load_into(members[0].model)
    return members[0].model


def average_inner(members: Sequence[Member]) -> None:
    """Give all members the mean of their AdamW moments."""
    for parameters in zip(*(member.model.parameters() for member in members), strict=True):
        states = [m.optimizer.state[p] for m, p in zip(members, parameters, strict=True)]
        for moment in ("exp_avg", "exp_avg_sq"):
            mean = torch.stack([state[moment] for state in states]).mean(dim=0)
            for state in states:
                state[moment].copy_(mean)


def draws(members: Sequence[Member], number: int, seed: int, form: CrossNode) -> list[Slices]:
    """How each member draws a step's slices in this round: shared seeds, own offsets."""
    offsets: list[Offset] = []
    if form == "sketch":
        own = [member.sketch(number, seed) for member in members]
        together = Sketch.mean((sketch, Fraction(1)) for sketch in own)
        offsets += [together.offset_from(sketch) for sketch in own]
    elif form == "moments":
        seen = [Moments.of(member.projections(number)) for member in members]
        pooled = Moments.pool((moments, Fraction(1)) for moments in seen)
        offsets += [pooled.offset_from(moments) for moments in seen]
    else:
        return [
            lambda step: (directions(derive_seed(seed, "slices", step), DIM, SLICES), None)
        ] * len(members)
    return [
        lambda step, offset=offset: offset.draw(
            derive_seed(seed, "slices", step), DIM, SLICES, KNOTS, T_MAX
        )
        for offset in offsets
    ]


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


@dataclass(frozen=True)
class Job:
    """One model of one seed."""

    model: str
    seed: int
    steps: int
    local_steps: int


def run_job(job: Job) -> dict[str, float]:
    """Train and judge the model."""
    films = {
        name: Film.of(region, EPISODES, derive_seed(job.seed, name))
        for name, region in REGIONS.items()
    }
    if job.model in CONSENSUS:
        mine = list(films.values())
    else:
        mine = [Film.cat(list(films.values())) if job.model == "pooled" else films[job.model]]
    form, inner = CONSENSUS.get(job.model, ("no", False))
    return error_of(federate(mine, job.seed, job.steps, job.local_steps, form, inner))


def values_of(found: Mapping[Job, Mapping[str, float]]) -> dict[str, object]:
    """Errors of every model, and the consensus's ratios to pooled and to the best solo, a seed."""
    seeds = sorted({job.seed for job in found})
    errors = {(job.model, job.seed): result["imagined"] for job, result in found.items()}
    values: dict[str, object] = {"standing_still": next(iter(found.values()))["still"]}
    for model in MODELS:
        values[model] = spread([errors[model, seed] for seed in seeds])
        values[f"{model}.decoded"] = spread(
            [result["decoded"] for job, result in found.items() if job.model == model]
        )
    best = [min(errors[region, seed] for region in REGIONS) for seed in seeds]
    for model in CONSENSUS:
        prefix = "" if model == BEST else f"{model}."
        mine = [errors[model, seed] for seed in seeds]
        pooled = [errors["pooled", seed] for seed in seeds]
        values[f"{prefix}over_pooled"] = spread([a / b for a, b in zip(mine, pooled, strict=True)])
        values[f"{prefix}over_best_solo"] = spread([a / b for a, b in zip(mine, best, strict=True)])
    return values


def main() -> None:
    """Run every model and seed, `--workers` at a time."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--steps", type=int, default=900, help="of every member, and pooled")
    parser.add_argument("--local-steps", type=int, default=10)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--name", default="split_world", help="of the result file")
    options = parser.parse_args()
    jobs = [
        Job(model, seed, options.steps, options.local_steps)
        for seed in options.seeds
        for model in reversed(MODELS)  # the long ones first
    ]
    with ProcessPoolExecutor(options.workers, get_context("spawn"), one_thread) as pool:
        found = dict(zip(jobs, pool.map(run_job, jobs), strict=True))
    values: dict[str, object] = {
        "seeds": options.seeds,
        "steps": options.steps,
        "local_steps": options.local_steps,
        "goal": "over_pooled at most 1.25, over_best_solo below 1",
    }
    print(write_result(options.name, values | values_of(found)))


if __name__ == "__main__":
    main()
