"""Heads on a frozen model: fitted in closed form or nearly, on features that are computed once."""

from __future__ import annotations

from typing import Literal

from gobelin.client.sovereign.head import AttentiveHead, Head, LinearHead, PooledHead
from gobelin.client.sovereign.labels import Balance, Task
from gobelin.shared.evaluation.attentive import fit_attentive
from gobelin.shared.evaluation.embed import Encoder, embed
from gobelin.shared.evaluation.frozen_probe import fit_probe

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
    dim = known.pooled.shape[1]
    head: Head
    if kind == "attentive":
        tokens = known.tokens.view(len(known.tokens), -1, dim)
        head = AttentiveHead.of(
            fit_attentive(tokens, known.labels, task.classes, seed=seed, weights=weights)
        )
    else:
        chosen = None if kind == "auto" else kind
        probe = fit_probe(known, task.classes, weights, seed, chosen)
        pooled = probe.kind == "pooled"
        head = PooledHead.of(probe.head) if pooled else LinearHead.of(probe.head, dim)
    return head.to(device).eval()
