"""A linear probe of a frozen model: of all its tokens, or of their mean where labels say so."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from gobelin.shared.evaluation.calibration import calibrated
from gobelin.shared.evaluation.embed import Embedding
from gobelin.shared.evaluation.probes import LinearHead, fit_head
from gobelin.shared.seeds import generator_of

Kind: TypeAlias = Literal["linear", "pooled"]  # on all tokens, on their mean

FOLDS = 5
FEW = 1_000  # labels below which the mean of the tokens may be worth more than all of them


@dataclass(frozen=True, eq=False)
class FrozenProbe:
    """A head and what it reads."""

    kind: Kind
    head: LinearHead

    def logits(self, tokens: Tensor) -> Tensor:
        """Scores (B, K) of tokens (B, N, D)."""
        return self.head.logits(tokens.flatten(1) if self.kind == "linear" else pooled(tokens))

    def predict(self, unseen: Embedding) -> Tensor:
        """Classes (B,) of embedded samples."""
        return self.head.predict(side_of(unseen, self.kind))


def fit_probe(
    known: Embedding,
    classes: int,
    weights: Tensor | None = None,
    seed: int = 0,
    kind: Kind | None = None,
) -> FrozenProbe:
    """The probe that labelled samples fit; `weights` (K,) are of classes in the loss.

    Without a `kind` it is the one that the labels choose.
    """
    kind = kind or better_kind(known, classes, weights, seed)
    return FrozenProbe(kind, fit_head(side_of(known, kind), known.labels, classes, weights=weights))


def better_kind(known: Embedding, classes: int, weights: Tensor | None, seed: int) -> Kind:
    """Whether few labels are better read off all tokens or off their mean, by cross-validation.

    Where something is says much of an image and nothing of a text's language; a recipe does not
    know which of them it is for, the labels do. Many labels find it out from all tokens.
    """
    labels = known.labels
    counts = labels.bincount(minlength=classes)
    folds = min(FOLDS, int(counts[counts > 0].min()))
    if len(labels) >= FEW or folds < 2:
        return "linear"
    fold = _folds(labels, folds, seed)
    losses: dict[Kind, float] = {}
    kinds: tuple[Kind, ...] = ("linear", "pooled")
    for kind in kinds:
        features = side_of(known, kind)
        logits = torch.zeros(len(labels), classes, device=features.device)
        for k in range(folds):
            kept = fold != k
            head = fit_head(features[kept], labels[kept], classes, weights=weights)
            logits[~kept] = head.logits(features[~kept])
        losses[kind] = calibrated(logits, labels, weights)[1]
    return min(losses, key=losses.__getitem__)


def side_of(known: Embedding, kind: Kind) -> Tensor:
    """What a probe of a kind reads of embedded samples, (N, F)."""
    return known.tokens if kind == "linear" else known.pooled


def pooled(tokens: Tensor) -> Tensor:
    """The mean (B, D) of the tokens (B, N, D) that hold data: the others are zeros throughout."""
    present = tokens.ne(0).any(dim=2, keepdim=True).to(tokens.dtype)
    return (tokens * present).sum(dim=1) / present.sum(dim=1).clamp(min=1)


def _folds(labels: Tensor, folds: int, seed: int) -> Tensor:
    """The fold (N,) of each sample: those of a class are dealt out evenly."""
    order = torch.randperm(len(labels), generator=generator_of(seed, "folds")).to(labels.device)
    fold = torch.empty_like(labels)
    for label in range(int(labels.max()) + 1):
        own = order[labels[order] == label]
        fold[own] = torch.arange(len(own), device=labels.device) % folds
    return fold
