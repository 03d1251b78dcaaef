"""ROCKET (arXiv:1910.13051): random convolutions and a ridge classifier, a baseline for series."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

KERNELS = 1000
LENGTHS = (7, 9, 11)
PENALTIES = tuple(10.0**e for e in range(-3, 4))
FOLD = 5  # every so manieth sample chooses the penalty


@dataclass(frozen=True)
class Kernel:
    """One random kernel: weights (1, channels, length) over some of the channels."""

    weight: Tensor
    channels: list[int]
    bias: float
    dilation: int
    padding: int


def random_kernels(steps: int, channels: int, count: int, seed: int) -> list[Kernel]:
    """Kernels as the paper draws them (§3.1), over random channels as its multivariate form."""
    rng = np.random.default_rng(seed)
    kernels = []
    for _ in range(count):
        length = int(rng.choice(LENGTHS))
        several = min(channels, length)
        chosen = rng.choice(channels, int(2 ** rng.uniform(0, np.log2(several + 1))), False)
        weight = rng.normal(size=(1, len(chosen), length))
        weight -= weight.mean(axis=2, keepdims=True)
        dilation = int(2 ** rng.uniform(0, np.log2((steps - 1) / (length - 1))))
        padding = (length - 1) * dilation // 2 if rng.integers(2) else 0
        kernels.append(
            Kernel(
                torch.from_numpy(weight).float(),
                sorted(int(c) for c in chosen),
                float(rng.uniform(-1, 1)),
                dilation,
                padding,
            )
        )
    return kernels


def transform(series: Tensor, kernels: list[Kernel]) -> Tensor:
    """Features (N, 2 K) of series (N, T, C): each kernel's share of positive values and maximum.

    A window's channels are normalised first, as the paper's are.
    """
    x = series.transpose(1, 2)
    x = (x - x.mean(dim=2, keepdim=True)) / (x.std(dim=2, keepdim=True) + 1e-8)
    features = []
    for kernel in kernels:
        out = F.conv1d(
            x[:, kernel.channels], kernel.weight, padding=kernel.padding, dilation=kernel.dilation
        )[:, 0]
        out = out + kernel.bias
        features += [(out > 0).float().mean(dim=1), out.amax(dim=1)]
    return torch.stack(features, dim=1)


def ridge_accuracy(
    train_x: Tensor, train_y: Tensor, test_x: Tensor, test_y: Tensor, classes: int
) -> float:
    """Percent right of a one-against-all ridge classifier; a fifth chooses its penalty."""
    mean, deviation = train_x.mean(dim=0), train_x.std(dim=0) + 1e-8
    train_x, test_x = ((x - mean).double() / deviation for x in (train_x, test_x))
    held = torch.arange(len(train_y)) % FOLD == 0
    right = {
        penalty: _right(
            train_x[~held], train_y[~held], train_x[held], train_y[held], classes, penalty
        )
        for penalty in PENALTIES
    }
    best = max(PENALTIES, key=lambda penalty: right[penalty])
    return 100 * _right(train_x, train_y, test_x, test_y, classes, best)


def _right(
    train_x: Tensor, train_y: Tensor, test_x: Tensor, test_y: Tensor, classes: int, penalty: float
) -> float:
    targets = 2 * F.one_hot(train_y, classes).double() - 1
    centre = targets.mean(dim=0)
    gram = train_x.T @ train_x
    gram.diagonal().add_(penalty * len(train_x))
    weights = torch.linalg.solve(gram, train_x.T @ (targets - centre))
    return float(((test_x @ weights + centre).argmax(dim=1) == test_y).double().mean())
