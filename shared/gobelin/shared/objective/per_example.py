"""Objectives whose loss is a sum over samples: all that differentially private training can use.

DP-SGD (arXiv:1607.00133) bounds what one sample does to a step by clipping that sample's own
gradient. Where a sample's loss depends on others of its batch (SIGReg, variance and covariance,
negatives, BatchNorm) there is no such gradient: taking one sample out changes those of all others,
and any ε told would be false.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

from torch import Tensor

from gobelin.shared.errors import PrivacyError
from gobelin.shared.modality.modality import Modality

if TYPE_CHECKING:
    from gobelin.shared.data import Batch
    from gobelin.shared.model.encoder import Encoder
    from gobelin.shared.objective.objective import Draw, Objective, ObjectiveRecipe
    from gobelin.shared.recipe import Recipe

OFFER = (
    'train one that is a sum over samples: kind = "byol" with projector.norm = "layer", or '
    'kind = "masked" with teacher = true and weight = 0 (I-JEPA; small ones have collapsed)'
)


@runtime_checkable
class PerExample(Protocol):
    """What an objective adds that can be had a sample at a time."""

    def coupling(self, recipe: Recipe) -> str:
        """What couples samples in this recipe all the same; empty where nothing does."""

    def trains(self, parameter: str) -> bool:
        """Whether the loss depends on an encoder's parameter of this name."""

    def example_inputs(self, encoder: Encoder, batch: Batch, draw: Draw) -> tuple[Tensor, ...]:
        """What `example_loss` needs, each (B, ...), row i from sample i and from randomness alone.

        No gradient is taken of it.
        """

    def example_loss(self, encoder: Encoder, *inputs: Tensor) -> Tensor:
        """The loss () of one sample, of its rows (...); under torch.vmap."""


def require_per_example(
    objective: Objective[ObjectiveRecipe], recipe: Recipe, modality: str | None = None
) -> PerExample:
    """An objective of a recipe's modality, known to be a sum over samples.

    Raises PrivacyError, with what couples them and what to train instead.
    """
    kind = objective.recipe.kind
    if not isinstance(objective, PerExample):
        raise PrivacyError(f"the objective {kind} couples samples: {objective.coupled}", OFFER)
    if found := objective.coupling(recipe):
        raise PrivacyError(f"the objective {kind} couples samples as it is set: {found}", OFFER)
    data = recipe.modality(modality)
    if type(data).present is not Modality.present:
        raise PrivacyError(
            f"a batch of {data.recipe.kind} is padded, and how far depends on the others in it",
            "private training is there for images, videos and vectors",
        )
    return objective
