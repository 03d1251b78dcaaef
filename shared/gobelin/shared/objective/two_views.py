"""VICReg and InfoNCE: two global views of a sample agree, and samples differ.

VICReg (arXiv:2105.04906) keeps samples apart by variance and covariance of every dimension,
InfoNCE in SimCLR's form (arXiv:2002.05709) by telling them from each other. There is no teacher,
and nothing is detached. Both look at a batch as a whole, so a node's ranks gather it.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, TypeVar

import torch
from pydantic import Field
from torch import Tensor

from gobelin.shared.errors import ConfigError
from gobelin.shared.objective.anti_collapse import AntiCollapse
from gobelin.shared.objective.info_nce import nt_xent
from gobelin.shared.objective.objective import Draw, LossParts, Objective, ObjectiveRecipe
from gobelin.shared.objective.vicreg import VicReg

if TYPE_CHECKING:
    from gobelin.shared.data import Batch
    from gobelin.shared.model.encoder import Encoder

R = TypeVar("R", bound=ObjectiveRecipe)


class VicRegRecipe(ObjectiveRecipe):
    """invariance + a · variance + b · covariance (the mean of off-diagonals, see `vicreg`)."""

    kind: Literal["vicreg"] = "vicreg"
    variance: Annotated[float, Field(ge=0)] = 1.0  # a, weight of the variance term
    covariance: Annotated[float, Field(ge=0)] = 80.0  # b, weight of the covariance term


class InfoNceRecipe(ObjectiveRecipe):
    """Cross-entropy of finding the other view among all of the batch."""

    kind: Literal["info_nce"] = "info_nce"
    # divides cosines: the lower, the more the nearest others count
    temperature: Annotated[float, Field(gt=0)] = 0.1


class TwoViews(Objective[R]):
    """An objective of the projections of the first two views of whole samples.

    Local views are not looked at: set `views.local_views = 0`, or they are made for nothing.
    """

    def __call__(self, encoder: Encoder, batch: Batch, draw: Draw) -> tuple[LossParts, Tensor]:
        """Of two views of the batch; features are those of the first."""
        features, z = two_views(encoder, batch, draw.views)
        z = z.float()
        everything = z if draw.ranks is None else draw.ranks.gather(z, dim=1)
        total, prediction = self.loss(everything)
        test = AntiCollapse.of(z.detach(), self.recipe, draw)
        return test.parts(total, prediction), features[0].detach()

    def projections(self, encoder: Encoder, batch: Batch, generator: torch.Generator) -> Tensor:
        """Of the same two views."""
        return two_views(encoder, batch, generator)[1].flatten(0, 1)  # (2 B, D)

    @abstractmethod
    def loss(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Total and prediction error, each (), of projections z (2, N, D)."""


class TwoViewVicReg(TwoViews[VicRegRecipe]):
    """VICReg; its prediction error is the invariance."""

    Table: ClassVar[type[VicRegRecipe]] = VicRegRecipe
    coupled = (
        "variance and covariance are a batch's, and without them the views of all samples agree in "
        "one point"
    )

    def loss(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The three terms, weighed."""
        terms = VicReg.of(z)
        return terms.total(self.recipe.variance, self.recipe.covariance), terms.invariance


class InfoNce(TwoViews[InfoNceRecipe]):
    """NT-Xent; the whole loss is the prediction error."""

    Table: ClassVar[type[InfoNceRecipe]] = InfoNceRecipe
    coupled = "a sample is told from the others of its batch"

    def loss(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Mean over all 2N anchors."""
        loss = nt_xent(z, self.recipe.temperature)
        return loss, loss


def two_views(encoder: Encoder, batch: Batch, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Features (2, B, D) and projections (2, B, P) of the views of `view_pair`."""
    return encoder.embed_views([view_pair(encoder, batch, generator)])


def view_pair(encoder: Encoder, batch: Batch, generator: torch.Generator) -> Tensor:
    """A batch's first two views of whole samples, (2, B, ...).

    Raises ConfigError where the recipe makes fewer.
    """
    views = encoder.modality.views(batch, generator)
    if min(views.leading, len(views.stacks[0])) < 2:
        raise ConfigError(
            "the objective compares two views of whole samples, and the recipe makes one",
            "set views.global_views = 2 in the modality's table",
        )
    return views.stacks[0][:2]
