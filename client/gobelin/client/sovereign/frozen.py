"""Heads on a frozen model: fitted in closed form or nearly, on features that are computed once."""

from __future__ import annotations

from typing import Any, Literal

from gobelin.client.sovereign.head import AttentiveHead, Head, LinearHead, PooledHead
from gobelin.client.sovereign.labels import Balance, Task
from gobelin.shared.evaluation.attentive import fit_attentive
from gobelin.shared.evaluation.embed import Encoder, embed
from gobelin.shared.evaluation.frozen_probe import better_kind
from gobelin.shared.evaluation.probes import fit_head

Kind = Literal["linear", "pooled", "attentive"]


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
