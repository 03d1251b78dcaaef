"""Rebasing: carrying what a region has learnt on one release over to the next.

A build is θ_k + d. On the next release θ_{k+1} = θ_k + m it becomes θ_{k+1} + s · (mask ⊙ d): its
delta copied, where the mask lets it. A head that reads the old build's tokens reads the new one's
through the frame between the two (`shared.frame`). Pure; no step of training is taken here.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from gobelin.client.sovereign.head import AttentiveHead, Head, LinearHead, PooledHead
from gobelin.shared.errors import ConfigError
from gobelin.shared.frame import Frame
from gobelin.shared.model import Encoder
from gobelin.shared.vector import ParameterVector


@dataclass(frozen=True)
class Carried:
    """A delta on another release."""

    vector: ParameterVector
    kept: float  # share of the delta's square norm that the mask let pass, 0 … 1


def carry(
    delta: ParameterVector, onto: ParameterVector, mask: Tensor | None = None, scale: float = 1.0
) -> Carried:
    """The release `onto` moved by `scale` times the delta, where `mask` (P,), if any, is true.

    Raises SchemaMismatchError where delta and release are of different models.
    """
    moved = delta.values if mask is None else torch.where(mask, delta.values, 0.0)
    whole = delta.norm() ** 2
    kept = ParameterVector(delta.schema, moved).norm() ** 2 / whole if whole else 1.0
    return Carried(onto + ParameterVector(delta.schema, scale * moved), kept)


def agrees_with_movement(delta: Tensor, movement: Tensor) -> Tensor:
    """Where (P,) a delta has the sign of the release's own movement, or that stood still."""
    return delta * movement >= 0


def agrees_with_gradient(delta: Tensor, gradient: Tensor) -> Tensor:
    """Where (P,) a delta goes down the regional loss at the new release, or that does not care.

    Masking by the sign of a few samples' gradient: GradFix, arXiv:2510.09658.
    """
    return delta * gradient <= 0


def head_gradient(
    encoder: Encoder, head: Head, prepared: Tensor, labels: Tensor
) -> dict[str, Tensor]:
    """The gradient of the cross entropy of prepared samples (B, ...) with labels (B,), by name.

    Of the encoder's own parameters; those that the head does not look through have zeros.
    """
    with torch.enable_grad():
        loss = F.cross_entropy(head.logits(encoder.tokens(prepared)), labels)
        named = dict(encoder.named_parameters())
        found = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    return {
        name: torch.zeros_like(parameter) if gradient is None else gradient
        for (name, parameter), gradient in zip(named.items(), found, strict=True)
    }


def align_head(head: Head, frame: Frame) -> Head:
    """The head that reads tokens as they are and answers as `head` does through the frame.

    Raises ConfigError on a kind of head that it does not know.
    """
    if isinstance(head, LinearHead | PooledHead):
        turned: Head = type(head)(**head.form())
        weight, bias = frame.into(head.linear.weight.detach()), head.linear.bias.detach()
        turned.load_state_dict({"linear.weight": weight, "linear.bias": bias})
    elif isinstance(head, AttentiveHead):
        turned = _align_attentive(head, frame)
    else:
        raise ConfigError(f"a {head.kind} head cannot be aligned", "rebase without alignment")
    return turned.eval().requires_grad_(False)


def _align_attentive(head: AttentiveHead, frame: Frame) -> AttentiveHead:
    """Its standardisation and the frame's rotation both go into the maps to keys and values."""
    state = {name: tensor.clone() for name, tensor in head.reader.state_dict().items()}
    for name in ("key", "value"):
        weight = state[f"{name}.weight"] / state["scale"]  # (D, D), of centred tokens
        state[f"{name}.bias"] -= weight @ state["mean"]
        state[f"{name}.weight"] = weight @ frame.rotation.T
    state["mean"] = torch.zeros_like(state["mean"])
    state["scale"] = torch.ones_like(state["scale"])
    turned = AttentiveHead(**head.form())
    turned.reader.load_state_dict(state)
    return turned
