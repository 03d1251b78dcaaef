"""An objective: what local steps minimise, prediction plus λ · anti-collapse."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Generic, Literal, TypeVar

import torch
from pydantic import Field, SerializeAsAny, model_validator
from torch import Tensor, nn

from gobelin.shared.objective.offset import Offset
from gobelin.shared.objective.ranks import Ranks
from gobelin.shared.plugins import Registry
from gobelin.shared.settings import Fraction, Positive, Settings

if TYPE_CHECKING:
    from gobelin.shared.data import Batch
    from gobelin.shared.modality import AnyModality
    from gobelin.shared.model.encoder import Encoder
    from gobelin.shared.recipe import Recipe


class ObjectiveRecipe(Settings):
    """A table `[objective]` of a recipe; each kind adds its own keys.

    Those of the test belong to all kinds: whatever is trained, its health is told by SIGReg.
    """

    kind: str  # decides which other keys the table has
    slices: Positive = 256  # M, random directions a step
    knots: Positive = 17  # K, quadrature nodes on [0, t_max]; odd
    t_max: Annotated[float, Field(gt=0)] = 3.0  # where the integral over frequencies ends
    # N that the statistic is normalised to, so that λ means the same on every node
    reference_batch: Positive = 64

    @model_validator(mode="after")
    def _knots_odd(self) -> ObjectiveRecipe:
        if self.knots % 2 == 0 or self.knots < 3:
            raise ValueError(f"knots = {self.knots} must be odd and at least 3")
        return self


class LeJepaRecipe(ObjectiveRecipe):
    """LeJEPA: (1 − λ) · view invariance + λ · SIGReg."""

    kind: Literal["lejepa"] = "lejepa"
    weight: Fraction = 0.05  # λ, of SIGReg beside the invariance


@dataclass(frozen=True)
class Draw:
    """What is random in one step."""

    views: torch.Generator  # the node's own
    slices: int  # seed of the slices, equal on all nodes
    offset: Offset | None = None  # pooled − own moments: SIGReg then tests all nodes' data
    ranks: Ranks | None = None  # of this node, each with its share of the batch


@dataclass(frozen=True)
class LossParts:
    """What a step minimises and what it is made of; scalars (), `total` with its graph."""

    total: Tensor
    prediction: Tensor  # how far predictions are from what they predict
    anti_collapse: Tensor  # SIGReg of the projections at the reference batch, minimised or not
    collapse: Tensor  # T / N, see `collapse_score`


R = TypeVar("R", bound=ObjectiveRecipe)


class Objective(ABC, Generic[R]):
    """One objective as a recipe wants it."""

    Table: ClassVar[type[Any]]
    # Why a sample's loss depends on others of its batch, unless it is a `PerExample`.
    coupled: ClassVar[str] = "it is not known to be a sum over samples"

    def __init__(self, recipe: R) -> None:
        self.recipe = recipe

    def predictor(self, recipe: Recipe, modality: AnyModality) -> nn.Module | None:
        """What it trains beside tokenizer, trunk and projector, if anything."""
        return None

    def added(self) -> Mapping[str, nn.Parameter]:
        """By name, what it trains that is no part of the model and stays with the trainer."""
        return {}

    def samples(self, batch: Batch) -> Batch:
        """The raw samples of a batch, where it holds more than those."""
        return batch

    def begin(self, encoder: Encoder) -> None:
        """Local steps are about to start from this model."""

    @abstractmethod
    def __call__(self, encoder: Encoder, batch: Batch, draw: Draw) -> tuple[LossParts, Tensor]:
        """Loss parts of a raw batch, and features (B, D) of it without their graph."""

    @abstractmethod
    def projections(self, encoder: Encoder, batch: Batch, generator: torch.Generator) -> Tensor:
        """What the anti-collapse term looks at: (n, D) of a raw batch, samples along n."""

    def stepped(self, encoder: Encoder) -> None:
        """The optimizer has moved this model."""


OBJECTIVES: Registry[Objective[ObjectiveRecipe]] = Registry(
    "objective",
    "gobelin.objectives",
    {
        "byol": "gobelin.shared.objective.byol:Byol",
        "info_nce": "gobelin.shared.objective.two_views:InfoNce",
        "lejepa": "gobelin.shared.objective.lejepa:LeJepa",
        "masked": "gobelin.shared.objective.masked:Masked",
        "next_latent": "gobelin.shared.objective.next_latent:NextLatent",
        "vicreg": "gobelin.shared.objective.two_views:TwoViewVicReg",
    },
)
ObjectiveTable = Annotated[SerializeAsAny[ObjectiveRecipe], OBJECTIVES.table()]
