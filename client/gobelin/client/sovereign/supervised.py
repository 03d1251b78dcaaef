"""The supervised objective: cross-entropy of a head on encoded tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from gobelin.client.sovereign.head import Head
from gobelin.shared.data import Batch, Labelled, Source
from gobelin.shared.evaluation.embed import BATCH, at_rest, require_labels
from gobelin.shared.model import Encoder
from gobelin.shared.objective import Draw, LossParts, Objective, ObjectiveRecipe


class Supervised(Objective[ObjectiveRecipe]):
    """Trains the encoder and a head on labels.

    With `augment`, a view of every sample is learnt beside it, where the modality's leading view
    has a sample's shape; views are what the model was made to be indifferent to.
    """

    def __init__(
        self,
        recipe: ObjectiveRecipe,
        head: Head,
        weights: Tensor | None = None,
        augment: bool = False,
    ) -> None:
        super().__init__(recipe)
        self.head, self._weights, self._augment = head.requires_grad_(True), weights, augment

    def added(self) -> Mapping[str, nn.Parameter]:
        """The head's parameters."""
        return {f"head.{name}": parameter for name, parameter in self.head.named_parameters()}

    def samples(self, batch: Batch) -> Batch:
        """Without their labels."""
        return batch.samples if isinstance(batch, Labelled) else batch

    def __call__(self, encoder: Encoder, batch: Batch, draw: Draw) -> tuple[LossParts, Tensor]:
        """Of a labelled batch; features are those of the samples as they are."""
        assert isinstance(batch, Labelled)
        prepared = encoder.prepare(batch.samples)
        inputs, labels = [prepared], [batch.labels]
        if self._augment:
            view = encoder.modality.views(batch.samples, draw.views).stacks[0][0]
            if view.shape == prepared.shape:
                inputs, labels = [*inputs, view], [*labels, batch.labels]
        seen = torch.cat(inputs)
        tokens = encoder.tokens(seen)
        loss = self.loss(tokens, torch.cat(labels))
        features = encoder.pool(tokens[: len(batch)], prepared).detach()
        nothing = torch.zeros((), device=loss.device)
        return LossParts(loss, loss.detach(), nothing, nothing), features

    def loss(self, tokens: Tensor, labels: Tensor) -> Tensor:
        """Weighed cross-entropy () of tokens (B, N, D)."""
        weights = None if self._weights is None else self._weights.to(tokens.device)
        return F.cross_entropy(self.head.logits(tokens.float()), labels, weights)

    def projections(self, encoder: Encoder, batch: Batch, generator: Generator) -> Tensor:
        """Of the samples as they are."""
        projections: Tensor = encoder(encoder.prepare(self.samples(batch)))
        return projections


@torch.no_grad()
def logits_of(
    encoder: Encoder, head: Head, source: Source[Any], device: str = "cpu"
) -> tuple[Tensor, Tensor]:
    """Logits (N, K) of all samples of a source, and their labels (N,), on the CPU."""
    scores, labels = [], require_labels(source)
    with at_rest(encoder):
        for start in range(0, len(source), BATCH):
            rows = torch.arange(start, min(len(source), start + BATCH)).numpy()
            tokens = encoder.tokens(encoder.prepare(source.read(rows).to(device)))
            scores.append(head.logits(tokens.float()).cpu())
    return torch.cat(scores), labels
