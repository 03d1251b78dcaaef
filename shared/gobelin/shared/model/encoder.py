"""An encoder: how one modality goes through the model. It shares the model's parameters."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gobelin.shared.data import Batch
from gobelin.shared.modality import AnyModality
from gobelin.shared.model.projector import Projector
from gobelin.shared.model.trunk import Trunk


class Encoder(nn.Module):
    """Tokenizer and trunk, with the projector and predictor the objective looks through."""

    def __init__(
        self,
        modality: AnyModality,
        tokenizer: nn.Module,
        trunk: Trunk,
        projector: Projector,
        predictor: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.modality = modality
        self.tokenizer, self.trunk, self.projector = tokenizer, trunk, projector
        self.predictor = predictor

    def without_predictor(self) -> Encoder:
        """The same modules but for what predicts: what a teacher is made of."""
        return Encoder(self.modality, self.tokenizer, self.trunk, self.projector)

    def prepare(self, batch: Batch) -> Tensor:
        """Raw samples as `tokens` takes them."""
        prepared: Tensor = self.modality.prepare(batch)
        return prepared

    def tokens(self, prepared: Tensor) -> Tensor:
        """Encoded tokens (B, N, D) of prepared samples (B, ...); zeros where there are no data."""
        present = self.present(prepared)
        encoded: Tensor = self.trunk(self.tokenizer(prepared), present)
        return encoded if present is None else encoded * present[..., None]

    def features(self, prepared: Tensor) -> Tensor:
        """Mean-pooled features (B, D) of prepared samples (B, ...)."""
        return self.pool(self.tokens(prepared), prepared)

    def pool(self, tokens: Tensor, prepared: Tensor) -> Tensor:
        """The mean (B, D) of the encoded tokens (B, N, D) that hold data of the samples."""
        present = self.present(prepared)
        if present is None:
            return tokens.mean(dim=1)
        return (tokens * present[..., None]).sum(dim=1) / present.sum(dim=1, keepdim=True)

    def present(self, prepared: Tensor) -> Tensor | None:
        """Which tokens (B, N) hold data, None if all; of a sample without any, all pass for it."""
        found: Tensor | None = self.modality.present(prepared)
        return None if found is None else found | ~found.any(dim=1, keepdim=True)

    def forward(self, prepared: Tensor) -> Tensor:
        """Projections (B, out) of prepared samples (B, ...)."""
        projections: Tensor = self.projector(self.features(prepared))
        return projections

    def embed_views(self, stacks: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Features (V, B, D) and projections (V, B, out) of stacks of views (V_i, B, ...).

        All views pass the projector together, so that its BatchNorm sees one batch of V · B.
        """
        features = torch.cat([self.features(stack.flatten(0, 1)) for stack in stacks])
        projections: Tensor = self.projector(features)
        views, batch = len(features) // stacks[0].shape[1], stacks[0].shape[1]
        return features.view(views, batch, -1), projections.view(views, batch, -1)
