"""DP-SGD's gradient: each sample's clipped, the sum noised (arXiv:1607.00133, Alg. 1).

Gradients of single samples come by torch.func (vmap of grad) over a functional call of the encoder.
Opacus' hooks are not used: they take the first axis of every module's input for the samples, and
an encoder's is views × samples or tokens of several views, so that each view would be clipped by
itself and a sample weigh several times what is accounted for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from gobelin.client.privacy.noise import Secret
from gobelin.shared.data import Batch
from gobelin.shared.model import Encoder
from gobelin.shared.objective import Draw
from gobelin.shared.objective.per_example import PerExample

AT_ONCE = 1 << 25  # scalars of single samples' gradients held at once, at most


@dataclass(frozen=True)
class Mechanism:
    """The Gaussian mechanism of one step: Σ clip(gᵢ, C) + N(0, (σ C)²), over the expected batch."""

    clip_norm: float  # C, of one sample's gradient over all parameters
    noise_multiplier: float  # σ
    expected: float  # samples in a batch, in expectation: the divisor, whatever was drawn


class PrivateGradients:
    """Fills in the gradients of a step's parameters; what it is given back is told to nobody."""

    def __init__(self, encoder: Encoder, objective: PerExample, mechanism: Mechanism) -> None:
        self.mechanism = mechanism
        self._encoder, self._objective = encoder, objective
        self._loss = _Loss(encoder, objective)
        named = dict(self._loss.named_parameters())
        prefix = "encoder."
        self._trained = {n: p for n, p in named.items() if objective.trains(n.removeprefix(prefix))}
        self._fixed = {n: p.detach() for n, p in named.items() if n not in self._trained}
        scalars = sum(parameter.numel() for parameter in self._trained.values())
        self._chunk = max(1, AT_ONCE // scalars)

    def __call__(self, batch: Batch, draw: Draw, secret: Secret) -> Tensor:
        """Set every trained parameter's gradient; returns the samples' losses (B,), as they are.

        `secret` is this step's alone.
        """
        total, losses = self.clipped_sum(batch, draw)
        flat = torch.cat([total[name].flatten() for name in self._trained]).cpu()
        noise = secret.gaussian(flat)
        scale = self.mechanism.noise_multiplier * self.mechanism.clip_norm
        noised = (flat.double() + scale * noise) / self.mechanism.expected
        start = 0
        for parameter in self._trained.values():
            piece = noised[start : start + parameter.numel()]
            parameter.grad = piece.view(parameter.shape).to(parameter)
            start += parameter.numel()
        return losses

    def clipped_sum(self, batch: Batch, draw: Draw) -> tuple[dict[str, Tensor], Tensor]:
        """Σ clip(gᵢ, C) by parameter, and the losses (B,); a gradient that is not finite is 0."""
        total = {name: torch.zeros_like(p) for name, p in self._trained.items()}
        losses = []
        for inputs in self._chunks(batch, draw):
            parameters = {name: p.detach() for name, p in self._trained.items()}
            step = vmap(grad_and_value(self._of_one), in_dims=(None, *(0 for _ in inputs)))
            with sdpa_kernel(SDPBackend.MATH):  # the others have no rule under vmap
                gradients, found = step(parameters, *inputs)
            factor = clip_factors(gradients, self.mechanism.clip_norm)
            for name, gradient in gradients.items():
                finite = torch.where(
                    factor.view(-1, *(1 for _ in gradient.shape[1:])) > 0, gradient, 0.0
                )
                total[name] += torch.einsum("b,b...->...", factor, finite)
            losses.append(found.float())
        return total, torch.cat(losses) if losses else torch.zeros(0)

    def _of_one(self, parameters: Mapping[str, Tensor], *inputs: Tensor) -> Tensor:
        loss: Tensor = functional_call(self._loss, {**self._fixed, **parameters}, inputs)
        return loss.float()

    def _chunks(self, batch: Batch, draw: Draw) -> Iterator[tuple[Tensor, ...]]:
        if not len(batch):
            return
        whole = self._objective.example_inputs(self._encoder, batch, draw)
        for start in range(0, len(batch), self._chunk):
            yield tuple(part[start : start + self._chunk] for part in whole)


def clip_factors(gradients: Mapping[str, Tensor], clip_norm: float) -> Tensor:
    """min(1, C / ‖gᵢ‖) of samples' gradients (B, ...) by parameter: (B,); 0 where not finite."""
    squares = [g.flatten(1).double().square().sum(dim=1) for g in gradients.values()]
    norms = torch.stack(squares).sum(dim=0).sqrt()
    factors = (clip_norm / norms.clamp(min=1e-30)).clamp(max=1.0)
    return torch.where(norms.isfinite(), factors, 0.0).float()


class _Loss(nn.Module):
    """An objective's loss of one sample, as a module whose parameters are the encoder's."""

    def __init__(self, encoder: Encoder, objective: PerExample) -> None:
        super().__init__()
        self.encoder = encoder
        self._objective = objective

    def forward(self, *inputs: Tensor) -> Tensor:
        return self._objective.example_loss(self.encoder, *inputs)
