"""Heads: what reads a region's classes off encoded tokens.

Every head takes tokens (B, N, D) as an encoder gives them, zeros where a sample holds no data, and
gives logits (B, K). Kinds are found by name in one table.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from gobelin.shared.errors import CheckpointError
from gobelin.shared.evaluation.attentive import HEADS as QUERIES
from gobelin.shared.evaluation.attentive import AttentiveHead as Reader
from gobelin.shared.evaluation.frozen_probe import pooled
from gobelin.shared.evaluation.probes import LinearHead as Probe

REMEDY = "build the model again, or use another copy of it"


class Head(nn.Module, ABC):
    """A classifier of tokens."""

    kind: ClassVar[str]
    classes: int  # K

    @abstractmethod
    def logits(self, tokens: Tensor) -> Tensor:
        """Scores (B, K) of tokens (B, N, D)."""

    @abstractmethod
    def form(self) -> dict[str, int]:
        """The sizes it is made of: what its constructor takes, as plain JSON."""

    def forward(self, tokens: Tensor) -> Tensor:
        """As `logits`."""
        return self.logits(tokens)


class LinearHead(Head):
    """A linear map of the flattened tokens: where in a sample things are is kept."""

    kind = "linear"

    def __init__(self, tokens: int, dim: int, classes: int) -> None:
        super().__init__()
        self.classes, self._shape = classes, (tokens, dim)
        self.linear = _zeros(tokens * dim, classes)

    @classmethod
    def of(cls, probe: Probe, dim: int) -> LinearHead:
        """The head that a linear probe on flattened tokens of `dim` dimensions is."""
        classes, features = probe.weight.shape
        head = cls(features // dim, dim, classes)
        _fill(head.linear, probe)
        return head

    def logits(self, tokens: Tensor) -> Tensor:
        """Scores (B, K) of tokens (B, N, D)."""
        scores: Tensor = self.linear(tokens.flatten(1))
        return scores

    def form(self) -> dict[str, int]:
        """N, D and K."""
        tokens, dim = self._shape
        return {"tokens": tokens, "dim": dim, "classes": self.classes}


class PooledHead(Head):
    """A linear map of the tokens' mean: fewer weights, for few labels."""

    kind = "pooled"

    def __init__(self, dim: int, classes: int) -> None:
        super().__init__()
        self.classes, self._dim = classes, dim
        self.linear = _zeros(dim, classes)

    @classmethod
    def of(cls, probe: Probe) -> PooledHead:
        """The head that a linear probe on mean-pooled tokens is."""
        classes, dim = probe.weight.shape
        head = cls(dim, classes)
        _fill(head.linear, probe)
        return head

    def logits(self, tokens: Tensor) -> Tensor:
        """Scores (B, K) of tokens (B, N, D)."""
        scores: Tensor = self.linear(pooled(tokens))
        return scores

    def form(self) -> dict[str, int]:
        """D and K."""
        return {"dim": self._dim, "classes": self.classes}


class AttentiveHead(Head):
    """One learned query that attends to the tokens, and a linear map of what it gathers."""

    kind = "attentive"

    def __init__(self, dim: int, classes: int, queries: int = QUERIES) -> None:
        super().__init__()
        self.classes, self._dim = classes, dim
        self.reader = Reader(dim, classes, queries, seed=0)

    @classmethod
    def of(cls, reader: Reader) -> AttentiveHead:
        """The head that an attentive probe is."""
        classes, dim = reader.classify.weight.shape
        head = cls(dim, classes, reader.heads)
        head.reader.load_state_dict(reader.state_dict())
        return head

    def logits(self, tokens: Tensor) -> Tensor:
        """Scores (B, K) of tokens (B, N, D)."""
        scores: Tensor = self.reader(tokens)
        return scores

    def form(self) -> dict[str, int]:
        """D, K, and the heads of the query's attention."""
        return {"dim": self._dim, "classes": self.classes, "queries": self.reader.heads}


HEADS: dict[str, type[Head]] = {each.kind: each for each in (LinearHead, PooledHead, AttentiveHead)}


def make_head(kind: str, form: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Head:
    """A head of a kind, of these sizes and weights; raises CheckpointError on others."""
    if kind not in HEADS:
        raise CheckpointError(f"there is no head {kind!r}; known: {', '.join(HEADS)}", REMEDY)
    try:
        head = HEADS[kind](**form)
        head.load_state_dict(dict(tensors))
    except (TypeError, RuntimeError, ValueError) as error:
        first = str(error).splitlines()[0]
        raise CheckpointError(
            f"the {kind} head's weights are not of its form: {first:.120}", REMEDY
        ) from None
    return head.eval().requires_grad_(False)


def _zeros(features: int, classes: int) -> nn.Linear:
    """A linear layer of zeros, without the default's draws from the global stream."""
    layer: nn.Linear = nn.utils.skip_init(nn.Linear, features, classes)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.zero_()
    return layer


def _fill(layer: nn.Linear, probe: Probe) -> None:
    with torch.no_grad():
        layer.weight.copy_(probe.weight)
        layer.bias.copy_(probe.bias)
