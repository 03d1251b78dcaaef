"""BYOL: foresee what a slow teacher makes of the other view (arXiv:2006.07733).

Nothing keeps samples apart but the teacher's lag and the predictor. The teacher is made anew from
the base whenever local steps begin, so it is no part of the federation's state; what it knows of
earlier rounds is what the base does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from gobelin.shared.model.projector import norm_of
from gobelin.shared.objective.anti_collapse import AntiCollapse
from gobelin.shared.objective.objective import Draw, LossParts, Objective, ObjectiveRecipe
from gobelin.shared.objective.teacher import Teacher
from gobelin.shared.objective.two_views import two_views, view_pair

if TYPE_CHECKING:
    from gobelin.shared.data import Batch
    from gobelin.shared.modality import AnyModality
    from gobelin.shared.model.encoder import Encoder
    from gobelin.shared.recipe import Recipe

BATCH_NORM = 'the projector\'s BatchNorm mixes a batch; set projector.norm = "layer"'
Momentum = Annotated[float, Field(ge=0, le=1)]


class ByolRecipe(ObjectiveRecipe):
    """How slow the teacher is, and how wide the predictor."""

    kind: Literal["byol"] = "byol"
    momentum: Momentum = 0.99  # of the teacher, a step; 0: the student as it was a step ago
    hidden: Annotated[int, Field(gt=0)] = 512  # width of the predictor


class Byol(Objective[ByolRecipe]):
    """2 − 2 cos(predicted, teacher's), both ways between two views."""

    Table: ClassVar[type[ByolRecipe]] = ByolRecipe

    def __init__(self, recipe: ByolRecipe) -> None:
        super().__init__(recipe)
        self.teacher = Teacher(recipe.momentum)

    def predictor(self, recipe: Recipe, modality: AnyModality) -> nn.Module:
        """An MLP from projections to the teacher's, of the projector's kind of norm."""
        out = recipe.projector.out
        norm = norm_of(recipe.projector.model_copy(update={"hidden": self.recipe.hidden}))
        bias = recipe.projector.norm != "batch"  # BatchNorm undoes it
        return nn.Sequential(
            nn.Linear(out, self.recipe.hidden, bias=bias),
            norm,
            nn.GELU(),
            nn.Linear(self.recipe.hidden, out),
        )

    def begin(self, encoder: Encoder) -> None:
        """The teacher is the base."""
        self.teacher.begin(encoder)

    def stepped(self, encoder: Encoder) -> None:
        """The teacher follows."""
        self.teacher.follow(encoder)

    def __call__(self, encoder: Encoder, batch: Batch, draw: Draw) -> tuple[LossParts, Tensor]:
        """Of two views of the batch; features are those of the first."""
        views = view_pair(encoder, batch, draw.views)
        features, z = encoder.embed_views([views])
        with torch.no_grad():
            targets = self.teacher.of(encoder).embed_views([views])[1]
        assert encoder.predictor is not None
        predicted = encoder.predictor(z.flatten(0, 1)).unflatten(0, z.shape[:2])
        loss = bootstrap_error(predicted, targets.flip(0))
        test = AntiCollapse.of(z.detach().float(), self.recipe, draw)
        return test.parts(loss, loss), features[0].detach()

    def coupling(self, recipe: Recipe) -> str:
        """BatchNorm in projector and predictor."""
        return "" if recipe.projector.norm == "layer" else BATCH_NORM

    def trains(self, parameter: str) -> bool:
        """All of it."""
        return True

    @torch.no_grad()
    def example_inputs(self, encoder: Encoder, batch: Batch, draw: Draw) -> tuple[Tensor, ...]:
        """Two views (B, 2, ...), and what the teacher makes of the other one, (B, 2, P)."""
        views = view_pair(encoder, batch, draw.views)
        targets = self.teacher.of(encoder).embed_views([views])[1]
        return views.transpose(0, 1), targets.flip(0).transpose(0, 1)

    def example_loss(self, encoder: Encoder, *inputs: Tensor) -> Tensor:
        """Of a sample's views (2, ...) and targets (2, P)."""
        views, targets = inputs
        assert encoder.predictor is not None
        return bootstrap_error(encoder.predictor(encoder(views)), targets)

    def projections(self, encoder: Encoder, batch: Batch, generator: torch.Generator) -> Tensor:
        """The student's, of both views."""
        return two_views(encoder, batch, generator)[1].flatten(0, 1)


def bootstrap_error(predicted: Tensor, targets: Tensor) -> Tensor:
    """Mean of 2 − 2 cos of rows (..., D); no gradient reaches the targets."""
    with torch.autocast(predicted.device.type, enabled=False):
        cosine = F.cosine_similarity(predicted.float(), targets.detach().float(), dim=-1)
        return 2 - 2 * cosine.mean()
