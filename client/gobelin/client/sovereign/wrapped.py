"""Objectives around an objective: an anchor against forgetting, and adapters of low rank."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import Generator, Tensor, nn

from gobelin.shared.data import Batch
from gobelin.shared.model import Encoder
from gobelin.shared.objective import Draw, LossParts, Objective, ObjectiveRecipe
from gobelin.shared.vector import ParameterVector


class Wrapped(Objective[ObjectiveRecipe]):
    """Another objective, unchanged."""

    def __init__(self, inner: Objective[ObjectiveRecipe]) -> None:
        super().__init__(inner.recipe)
        self.inner = inner

    def added(self) -> Mapping[str, nn.Parameter]:
        """The inner one's."""
        return self.inner.added()

    def samples(self, batch: Batch) -> Batch:
        """The inner one's."""
        return self.inner.samples(batch)

    def begin(self, encoder: Encoder) -> None:
        """The inner one begins."""
        self.inner.begin(encoder)

    def __call__(self, encoder: Encoder, batch: Batch, draw: Draw) -> tuple[LossParts, Tensor]:
        """The inner one's."""
        return self.inner(encoder, batch, draw)

    def projections(self, encoder: Encoder, batch: Batch, generator: Generator) -> Tensor:
        """The inner one's."""
        return self.inner.projections(encoder, batch, generator)

    def stepped(self, encoder: Encoder) -> None:
        """The inner one is told."""
        self.inner.stepped(encoder)


class Anchored(Wrapped):
    """L2-SP (arXiv:1802.01483): beside the inner objective, weight / 2 · ‖θ − θ_base‖².

    Over the parameters that are trained and have a place in the base.
    """

    def __init__(
        self,
        inner: Objective[ObjectiveRecipe],
        base: ParameterVector,
        weight: float,
        modality: str,
    ) -> None:
        super().__init__(inner)
        self._base, self._weight, self._modality = base.tensors(), weight, modality
        self._held: list[tuple[nn.Parameter, Tensor]] = []

    def begin(self, encoder: Encoder) -> None:
        """Hold on to the base's own values, whatever the encoder starts from."""
        super().begin(encoder)
        named = named_in_vector(encoder, self._modality)
        self._held = [(p, self._base[n].to(p.device)) for n, p in named.items() if p.requires_grad]

    def __call__(self, encoder: Encoder, batch: Batch, draw: Draw) -> tuple[LossParts, Tensor]:
        """The inner one's, and how far the model has gone."""
        parts, features = super().__call__(encoder, batch, draw)
        far = sum((p - base).square().sum() for p, base in self._held)
        return replace(parts, total=parts.total + self._weight / 2 * far), features


def named_in_vector(encoder: Encoder, modality: str) -> dict[str, nn.Parameter]:
    """An encoder's parameters by their names in the parameter vector."""
    places = {"tokenizer": f"tokenizers.{modality}", "predictor": f"predictors.{modality}"}
    named = {}
    for name, parameter in encoder.named_parameters():
        role, _, rest = name.partition(".")
        named[f"{places.get(role, role)}.{rest}"] = parameter
    return named
