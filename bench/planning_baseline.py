"""stable-worldmodel as the baseline of planning: its CEMSolver, through its LeWM.get_cost.

The baseline is the code of the package itself, of which nothing is replaced; only its `__init__`,
which imports 400 MB of data formats and simulators, is not run:

    pip install --no-deps --target .cache/stable-worldmodel stable-worldmodel==0.1.1 \
        gymnasium farama-notifications cloudpickle loguru einops
"""

from __future__ import annotations

import contextlib
import importlib
import io
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from gobelin.shared.errors import ConfigError

BASELINE = Path(".cache/stable-worldmodel")
BOUND = 3.0  # of our actions: theirs have none, and a standard deviation of 1 at first


@dataclass(frozen=True)
class Model:
    """A world model in both forms."""

    latent: int
    action: int
    history: int
    embed: nn.Module  # actions (N, T, A) → conditions (N, T, C) of `step`, once a plan
    step: Callable[[Tensor, Tensor], Tensor]  # (N, T, D), (N, T, C) → next latents (N, T, D)
    ours: Callable[[Tensor, Tensor], Tensor]  # (N, T, D), (N, T, A) → the same by our layers
    imagine: Callable[[Tensor, Tensor], Tensor]  # (N, D), (N, H, A) → (N, H, D)
    rough: Callable[[Tensor, Tensor], Tensor]  # the same in bf16


@dataclass(frozen=True)
class Search:
    """How both search."""

    samples: int
    iterations: int
    elites: int
    horizon: int


class Windowed(nn.Module):
    """A model's step as LeWM's predictor."""

    def __init__(self, step: Callable[[Tensor, Tensor], Tensor], history: int) -> None:
        super().__init__()
        self.num_frames = history
        self.step = step

    def forward(self, latents: Tensor, conditions: Tensor) -> Tensor:
        """(N, T, D) under (N, T, A) → (N, T, D)."""
        return self.step(latents, conditions)


class Baseline:
    """stable-worldmodel's solver and world model, imported from where they were installed."""

    def __init__(self, path: Path) -> None:
        if not (path / "stable_worldmodel" / "solver" / "cem.py").exists():
            what = f"no stable_worldmodel in {path}"
            raise ConfigError(what, "install it as the head of bench/planning_baseline.py says")
        for name in ("stable_worldmodel", "stable_worldmodel.wm"):
            package = types.ModuleType(name)  # without running its __init__
            package.__path__ = [str(path / name.replace(".", "/"))]
            sys.modules[name] = package
        sys.path.append(str(path))
        self.solver = importlib.import_module("stable_worldmodel.solver.cem").CEMSolver
        self.lewm = importlib.import_module("stable_worldmodel.wm.lewm.lewm").LeWM
        self.box = importlib.import_module("gymnasium.spaces").Box

    def world(self, model: Model, ours: bool = False) -> Any:
        """Their world model about a model's step, by `ours` layers or plain; latents are given."""
        step, embed = (model.ours, nn.Identity()) if ours else (model.step, model.embed)
        return self.lewm(nn.Identity(), Windowed(step, model.history), embed)

    def planner(
        self, costable: Any, model: Model, search: Search, batch: int, z0: Tensor, goal: Tensor
    ) -> Callable[[], Tensor]:
        """What plans with `costable`, `batch` problems at a time; gives plans (B, H, A)."""
        solver = self.solver(
            costable,
            batch_size=batch,
            num_samples=search.samples,
            n_steps=search.iterations,
            topk=search.elites,
            device=z0.device,
        )
        solver.configure(
            action_space=self.box(-BOUND, BOUND, (len(z0), model.action)),
            n_envs=len(z0),
            config=types.SimpleNamespace(horizon=search.horizon, action_block=1),
        )

        def plan() -> Tensor:
            with contextlib.redirect_stdout(io.StringIO()):  # it prints
                found: Tensor = solver.solve(given(z0, goal))["actions"]
            return found.to(z0.device)

        return plan


def given(z0: Tensor, goal: Tensor) -> dict[str, Tensor]:
    """What their LeWM wants to know: encoded start and goal, as it caches them itself."""
    pictures = z0.new_zeros(len(z0), 1, 1, 1, 1)
    return {
        "pixels": pictures,
        "goal": pictures,
        "emb": z0[:, None],
        "goal_emb": goal[:, None],
    }
