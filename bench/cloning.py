"""Goal-conditioned behaviour cloning: what was done where this goal was reached later.

The baseline without a world model (GCBC; hindsight goals, arXiv:1906.05838 §4): the recipe's own
encoder looks at now and at the goal, and an MLP says the action. It is trained on the films the
world model is trained on, on as many pictures a step, by the same optimizer and schedule.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.planning_worlds import Film
from gobelin.client.inner_optimizer import learning_rate
from gobelin.shared.evaluation.planning import Floats, Policy, Task, World
from gobelin.shared.modality.trajectory import Trajectory
from gobelin.shared.model import build_jepa
from gobelin.shared.recipe import Recipe

HIDDEN = 256


class Cloner(nn.Module):
    """Observation and goal, each uint8 (B, C, H, W), to an action (B, A) within ± the bound."""

    def __init__(self, recipe: Recipe, actions: int, bound: float, seed: int) -> None:
        super().__init__()
        self.encoder = build_jepa(recipe, seed).encoder().without_predictor()
        assert isinstance(self.encoder.modality, Trajectory)
        self.observation = self.encoder.modality.observation
        self.bound = bound
        width = recipe.projector.out
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.head = nn.Sequential(
                nn.Linear(2 * width, HIDDEN), nn.GELU(),
                nn.Linear(HIDDEN, HIDDEN), nn.GELU(),
                nn.Linear(HIDDEN, actions), nn.Tanh(),
            )  # fmt: skip

    def forward(self, seen: Tensor, goals: Tensor) -> Tensor:
        """Actions (B, A)."""
        pictures = self.observation.prepare(torch.cat([seen, goals]))
        now, then = self.encoder(pictures).chunk(2)
        action: Tensor = self.bound * self.head(torch.cat([now, then], dim=1))
        return action


def clone(recipe: Recipe, film: Film, world: World, seed: int, steps: int) -> Cloner:
    """Train for so many steps on pairs of hindsight; mean squared error of the action."""
    (table,) = recipe.modalities.values()
    batch = recipe.inner.batch_size * (table.model_dump()["steps"] + 1) // 2  # pairs of pictures
    cloner = Cloner(recipe, world.actions, world.max_step, seed)
    optimizer = torch.optim.AdamW(
        cloner.parameters(), betas=recipe.inner.betas, weight_decay=recipe.inner.weight_decay
    )
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = learning_rate(step, steps, recipe.inner)
        seen, goals, done = film.hindsight(seed, step, batch)
        loss = F.mse_loss(cloner(seen, goals) / world.max_step, done / world.max_step)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(cloner.parameters(), recipe.inner.clip_norm)
        optimizer.step()
    return cloner.eval()


def cloned_policy(cloner: Cloner, world: World, task: Task) -> Policy:
    """Sees pictures alone, as `planning_policy` does."""
    goals = torch.from_numpy(world.render(task.goals))

    @torch.no_grad()
    def act(positions: Floats) -> Floats:
        actions: Floats = cloner(torch.from_numpy(world.render(positions)), goals).numpy()
        return actions

    return act
