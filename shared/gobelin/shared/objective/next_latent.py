"""Next-latent prediction: a world model, trained to foresee what actions lead to.

L = one-step error + imagined error + λ · SIGReg, after LeWM (arXiv:2603.19312): no teacher, and no
stop-gradient. The imagined error is that of rolling out from the first latent alone, as a plan is;
without it, errors grow with the horizon.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from gobelin.shared.data.trajectories import Batch, Trajectories
from gobelin.shared.errors import ConfigError
from gobelin.shared.model.predictor import Predictor
from gobelin.shared.objective.anti_collapse import AntiCollapse
from gobelin.shared.objective.latent import latent_error
from gobelin.shared.objective.objective import Draw, LossParts, Objective, ObjectiveRecipe
from gobelin.shared.recipe import PredictorRecipe

if TYPE_CHECKING:
    from gobelin.shared.modality import AnyModality
    from gobelin.shared.model.encoder import Encoder
    from gobelin.shared.recipe import Recipe


class NextLatentRecipe(ObjectiveRecipe):
    """Weights of the terms, and the predictor's sizes."""

    kind: Literal["next_latent"] = "next_latent"
    weight: Annotated[float, Field(ge=0)] = 0.05  # λ, of SIGReg beside the predictions
    # weight of the error over imagined steps, beside the one-step one
    imagined: Annotated[float, Field(ge=0)] = 1.0
    predictor: PredictorRecipe = PredictorRecipe()


class NextLatent(Objective[NextLatentRecipe]):
    """Trajectories only. SIGReg tests the latents of all time steps together."""

    Table: ClassVar[type[NextLatentRecipe]] = NextLatentRecipe
    coupled = (
        "SIGReg tests a batch as a whole, and without it (weight = 0), as there is no teacher, one "
        "latent for all states is foreseen best"
    )

    def predictor(self, recipe: Recipe, modality: AnyModality) -> Predictor:
        """From latents and actions to the next latents."""
        width = getattr(modality.recipe, "actions", None)
        if width is None:
            raise ConfigError(
                f"next_latent predicts from actions, and {modality.recipe.kind} has none",
                'use it in a [modalities.NAME] table of kind = "trajectory"',
            )
        if recipe.projector.norm == "batch":
            # A plan looks at single states, which have no batch statistics.
            raise ConfigError(
                'next_latent needs projector.norm = "layer"', "set it in the recipe's [projector]"
            )
        return Predictor(self.recipe.predictor, recipe.projector.out, width)

    def __call__(self, encoder: Encoder, batch: Batch, draw: Draw) -> tuple[LossParts, Tensor]:
        """Of all windows of the batch; features are those of all observations."""
        assert isinstance(batch, Trajectories)
        features = encoder.features(encoder.prepare(batch))  # (B (T + 1), D)
        steps = batch.actions.shape[1]
        z = encoder.projector(features).float().unflatten(0, (-1, steps + 1))  # (B, T + 1, P)
        return self.loss(encoder, z, batch.actions, draw), features.detach()

    def projections(self, encoder: Encoder, batch: Batch, generator: torch.Generator) -> Tensor:
        """The latents of all observations; nothing is augmented."""
        projections: Tensor = encoder(encoder.prepare(batch))
        return projections

    def loss(self, encoder: Encoder, z: Tensor, actions: Tensor, draw: Draw) -> LossParts:
        """Loss parts of latents z (B, T + 1, P) with the actions (B, T, A) between them."""
        recipe, predictor, modality = self.recipe, encoder.predictor, encoder.modality
        assert isinstance(predictor, Predictor)
        assert hasattr(modality, "conditions")
        conditions = modality.conditions(actions)
        window = min(predictor.history, actions.shape[1])
        seen, done, after = (windows(x, window) for x in (z[:, :-1], conditions, z[:, 1:]))
        prediction = latent_error(predictor(seen, done), after)
        imagined = latent_error(predictor.rollout(z[:, 0], conditions), z[:, 1:])
        test = AntiCollapse.of(z.flatten(0, 1), recipe, draw)
        total = prediction + recipe.imagined * imagined + recipe.weight * test.weighed
        return test.parts(total, prediction)


def windows(x: Tensor, length: int) -> Tensor:
    """All windows of x (B, T, D): (B · (T − length + 1), length, D)."""
    return x.unfold(1, length, 1).transpose(2, 3).flatten(0, 1)
