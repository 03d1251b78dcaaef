"""A world model that answers questions about raw observations, for the command and the server."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from gobelin.shared.checkpoint import read_checkpoint
from gobelin.shared.data.trajectories import Trajectories
from gobelin.shared.errors import ConfigError, PlanError
from gobelin.shared.evaluation.embed import require_device
from gobelin.shared.model import encoder_of
from gobelin.shared.model.world_model import WorldModel
from gobelin.shared.planning import Cost, Effort, Plan, Problem, Sum, ToGoal
from gobelin.shared.planning.problem import plan
from gobelin.shared.recipe import Recipe
from gobelin.shared.worldmodel.plan_settings import PlanSettings
from gobelin.shared.worldmodel.states import StateReadout, fit_states


@dataclass(frozen=True, eq=False)
class Foreseen:
    """Where S plans lead: latents (S, H, P), and mean squared distances (S, H) in latent space."""

    latents: Tensor
    from_start: Tensor
    to_goal: Tensor | None  # where a goal was given
    states: Tensor | None  # (S, H, R), where something reads them


@dataclass(frozen=True, eq=False)
class Planned:
    """A plan that keeps its constraints, and where it is foreseen to lead."""

    actions: Tensor  # (H, A)
    cost: float
    start_to_goal: float  # mean squared distance in latent space, before anything is done
    foreseen: Foreseen  # S = 1


class Oracle:
    """Answers in the terms of raw observations; its tensors come back on the CPU."""

    def __init__(
        self, model: WorldModel, device: str = "cpu", states: StateReadout | None = None
    ) -> None:
        self.model, self.device, self.states = model, device, states
        model.encoder.to(device).requires_grad_(False)

    @torch.no_grad()
    def plan(self, start: Tensor, goal: Tensor, settings: PlanSettings) -> Planned:
        """Actions from one observation (...) to another; PlanError where none are allowed."""
        z, target = self._encode(start, goal)
        modality = self.model.modality
        space = settings.space(modality.recipe.actions, modality.recipe.action_scale)
        cost: Cost = ToGoal(target, every_step=settings.every_step)
        if settings.effort:
            cost = Sum([cost, Effort(settings.effort)])
        readout = None if self.states is None else self.states.readout
        values = 0 if self.states is None else self.states.size
        problem = Problem(
            self.model,
            z,
            cost,
            space,
            settings.horizon,
            constraints=settings.constraints(readout, values),
        )
        found: Plan = plan(settings.make_planner(), problem, settings.seed)
        return Planned(
            actions=found.actions[0].cpu(),
            cost=float(found.cost[0]),
            start_to_goal=float(_distance(z, target)),
            foreseen=self._foresee(z, found.actions, target),
        )

    @torch.no_grad()
    def rollout(self, start: Tensor, actions: Tensor, goal: Tensor | None = None) -> Foreseen:
        """Where plans (S, H, A) lead from one observation (...)."""
        seen = self._encode(start, *(() if goal is None else (goal,)))
        return self._foresee(seen[0], actions, seen[1] if len(seen) > 1 else None)

    def surprise(self, batch: Trajectories) -> Tensor:
        """Energy (B, T) of each step, low = plausible."""
        return self.model.surprise(batch.to(self.device)).cpu()

    def _encode(self, *observations: Tensor) -> tuple[Tensor, ...]:
        """A latent (1, P) of each observation."""
        latents = self.model.encode(torch.stack(observations).to(self.device))
        return tuple(z[None] for z in latents)

    def _foresee(self, z: Tensor, actions: Tensor, goal: Tensor | None) -> Foreseen:
        latents = self.model.rollout(
            z, actions[None].to(self.device).view(1, -1, *actions.shape[-2:])
        )
        if not bool(latents.isfinite().all()):
            raise PlanError("what these actions lead to is not finite", "give smaller actions")
        return Foreseen(
            latents=latents[0].cpu(),
            from_start=_distance(latents[0], z).cpu(),
            to_goal=None if goal is None else _distance(latents[0], goal).cpu(),
            states=None if self.states is None else self.states.readout(latents[0]).cpu(),
        )


def open_oracle(
    checkpoint: Path, modality: str | None, device: str, states: Path | None = None
) -> Oracle:
    """The world model of a checkpoint; raises CheckpointError, ConfigError and DataError.

    With no modality named it is the recipe's only one of trajectories. `states` are episodes with
    the array that guardrails speak of.
    """
    require_device(device)
    found = read_checkpoint(checkpoint)
    name = modality or _only_world(found.recipe)
    model = WorldModel(encoder_of(found.recipe, found.vector, name))
    model.encoder.to(device)
    return Oracle(model, device, None if states is None else fit_states(model, states, device))


def _only_world(recipe: Recipe) -> str:
    worlds = [name for name, table in recipe.modalities.items() if table.kind == "trajectory"]
    if len(worlds) == 1:
        return worlds[0]
    if worlds:
        what = f"the recipe has several world models: {', '.join(sorted(worlds))}"
        raise ConfigError(what, "say which one by --modality")
    kinds = ", ".join(sorted({table.kind for table in recipe.modalities.values()}))
    raise ConfigError(
        f"the checkpoint is no world model, but one of {kinds}", "use one trained on trajectories"
    )


def _distance(latents: Tensor, other: Tensor) -> Tensor:
    """Mean squared distance (...) of latents (..., P) from (1, P), as costs and surprise are."""
    return (latents - other).square().mean(dim=-1)
