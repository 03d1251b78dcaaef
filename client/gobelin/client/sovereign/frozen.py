"""Heads on a frozen model: fitted in closed form or nearly, on features that are computed once."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from gobelin.client.sovereign.head import AttentiveHead, Head, LinearHead, PooledHead
from gobelin.client.sovereign.labels import Balance, Task
from gobelin.client.sovereign.supervised import calibrated
from gobelin.shared.evaluation.attentive import fit_attentive
from gobelin.shared.evaluation.embed import Embedding, Encoder, embed
from gobelin.shared.evaluation.probes import fit_head
from gobelin.shared.seeds import generator_of

Kind = Literal["linear", "pooled", "attentive"]

FOLDS = 5
FEW = 1_000  # labels below which the mean of the tokens may be worth more than all of them


def fit_frozen(
    encoder: Encoder,
    task: Task,
    kind: Kind | Literal["auto"],
    balance: Balance,
    seed: int,
    device: str,
) -> Head:
    """A head of a kind, on the device, fitted on the task's training labels.

    `auto` reads all tokens or, where few labels say so, their mean. Where balance is by sampling it
    is by weights here, which is the same of whole batches. Raises DataError on features that are
    not finite.
    """
    known = embed(encoder, task.train, device=device)
    weights = None if balance == "none" else task.weights("loss")
    if weights is not None:
        weights = weights.to(device)
    if kind == "auto":
        kind = better_kind(known, task.classes, weights, seed)
    dim = known.pooled.shape[1]
    head: Any
    if kind == "attentive":
        tokens = known.tokens.view(len(known.tokens), -1, dim)
        head = AttentiveHead.of(
            fit_attentive(tokens, known.labels, task.classes, seed=seed, weights=weights)
        )
    elif kind == "pooled":
        head = PooledHead.of(fit_head(known.pooled, known.labels, task.classes, weights=weights))
    else:
        probe = fit_head(known.tokens, known.labels, task.classes, weights=weights)
        head = LinearHead.of(probe, dim)
    fitted: Head = head.to(device).eval()
    return fitted


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
    sides: dict[Kind, Tensor] = {"linear": known.tokens, "pooled": known.pooled}
    for kind, features in sides.items():
        logits = torch.zeros(len(labels), classes, device=features.device)
        for k in range(folds):
            kept = fold != k
            head = fit_head(features[kept], labels[kept], classes, weights=weights)
            logits[~kept] = features[~kept] @ head.weight.T + head.bias
        losses[kind] = calibrated(logits, labels, weights)[1]
    return min(losses, key=losses.__getitem__)


def _folds(labels: Tensor, folds: int, seed: int) -> Tensor:
    """The fold (N,) of each sample: those of a class are dealt out evenly."""
    order = torch.randperm(len(labels), generator=generator_of(seed, "folds")).to(labels.device)
    fold = torch.empty_like(labels)
    for label in range(int(labels.max()) + 1):
        own = order[labels[order] == label]
        fold[own] = torch.arange(len(own), device=labels.device) % folds
    return fold
