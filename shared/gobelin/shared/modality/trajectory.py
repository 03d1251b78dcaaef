"""Trajectories: observations of another modality, and the actions in between."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field, SerializeAsAny, field_validator
from torch import Tensor, nn

from gobelin.shared.data.formats import TrajectoryFormat
from gobelin.shared.data.trajectories import Trajectories
from gobelin.shared.errors import DataError
from gobelin.shared.modality import MODALITIES, AnyModality
from gobelin.shared.modality.image import ImageRecipe
from gobelin.shared.modality.modality import Modality, ModalityRecipe, Views
from gobelin.shared.modality.vector import VectorRecipe
from gobelin.shared.objective.next_latent import NextLatentRecipe
from gobelin.shared.objective.objective import ObjectiveTable
from gobelin.shared.settings import Positive


class TrajectoryRecipe(ModalityRecipe):
    """What is observed, what is done, and how many steps a training sample has."""

    kind: Literal["trajectory"] = "trajectory"
    # a table of kind "image" or "vector"
    observation: Annotated[SerializeAsAny[ModalityRecipe], MODALITIES.table()]
    actions: Positive  # A, numbers of an action
    action_scale: Annotated[float, Field(gt=0)] = 1.0  # divides actions, alike on every node
    steps: Positive = 3  # T, actions of a training sample, which has T + 1 observations
    stride: Positive = 1  # steps from one sample of an episode to the next
    # of its local steps; that of trajectories
    objective: ObjectiveTable | None = NextLatentRecipe()

    @field_validator("observation")
    @classmethod
    def _observable(cls, table: ModalityRecipe) -> ModalityRecipe:
        if not isinstance(table, ImageRecipe | VectorRecipe):
            raise ValueError('observations are of kind "image" or "vector"')
        return table


class Trajectory(Modality[TrajectoryRecipe, Trajectories]):
    """Windows of episodes. Prepared samples are single observations, episode by episode."""

    Table: ClassVar[type[TrajectoryRecipe]] = TrajectoryRecipe

    def __init__(self, recipe: TrajectoryRecipe) -> None:
        super().__init__(recipe)
        self.observation: AnyModality = MODALITIES.load(recipe.observation.kind)(recipe.observation)

    @property
    def form(self) -> TrajectoryFormat:
        """Pixels or vectors, by the observation's kind."""
        recipe, seen = self.recipe, self.recipe.observation
        size = seen.image_size if isinstance(seen, ImageRecipe) else None
        assert isinstance(seen, ImageRecipe | VectorRecipe)
        return TrajectoryFormat(
            steps=recipe.steps,
            actions=recipe.actions,
            observation="vector" if size is None else "pixels",
            channels=seen.channels,
            image_size=size,
            stride=recipe.stride,
        )

    def tokenizer(self, dim: int) -> nn.Module:
        """The observation's."""
        return self.observation.tokenizer(dim)

    def check(self, batch: Trajectories) -> None:
        """Observations as their modality has them, and finite actions of the recipe's width."""
        if not isinstance(batch, Trajectories):
            raise DataError(f"a batch is a {type(batch).__name__}, the recipe needs trajectories")
        seen, done, width = batch.observations, batch.actions, self.recipe.actions
        fits = done.ndim == 3 and seen.shape[:2] == (len(done), done.shape[1] + 1)
        if not fits or done.shape[2] != width or done.dtype != torch.float32:
            found = f"{tuple(seen.shape)} with {done.dtype} {tuple(done.shape)}"
            wanted = f"(B, T + 1, ...) with float32 (B, T, {width})"
            raise DataError(f"a batch is {found}, the recipe needs {wanted}")
        if not bool(done.isfinite().all()):
            raise DataError("an action is not finite", "mend the episode or leave it out")
        self.observation.check(seen.flatten(0, 1))

    def prepare(self, batch: Trajectories) -> Tensor:
        """All observations, prepared: (B · (T + 1), ...)."""
        prepared: Tensor = self.observation.prepare(batch.observations.flatten(0, 1))
        return prepared

    def conditions(self, actions: Tensor) -> Tensor:
        """Actions (..., A) as the predictor takes them."""
        return actions / self.recipe.action_scale

    def views(self, batch: Trajectories, generator: torch.Generator) -> Views:
        """Of all observations, for objectives that know no actions."""
        return self.observation.views(batch.observations.flatten(0, 1), generator)

    def grid(self, tokens: int) -> tuple[int, ...]:
        """That of one observation."""
        return self.observation.grid(tokens)

    def made_up(self, count: int, generator: torch.Generator) -> Trajectories:
        """Observations out of nothing, one step long, and Gaussian actions."""
        seen = self.observation.made_up(2 * count, generator)
        actions = torch.randn(count, 1, self.recipe.actions, generator=generator)
        return Trajectories(seen.unflatten(0, (count, 2)), self.recipe.action_scale * actions)
