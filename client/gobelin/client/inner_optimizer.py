"""The inner optimizer: AdamW under one schedule for the whole federation."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from gobelin.shared.recipe import InnerRecipe

MOMENTS = ("exp_avg", "exp_avg_sq")  # AdamW's two, as PyTorch names them


def learning_rate(step: int, total_steps: int, inner: InnerRecipe) -> float:
    """Linear warm-up, then a cosine from lr to final_lr, over the federation's whole schedule."""
    warmup = max(1, round(inner.warmup * total_steps))
    if step < warmup:
        return inner.lr * (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, total_steps - warmup))
    return inner.final_lr + (inner.lr - inner.final_lr) * (1 + math.cos(math.pi * progress)) / 2


def adamw(parameters: Sequence[torch.nn.Parameter], inner: InnerRecipe) -> torch.optim.AdamW:
    """AdamW (arXiv:1711.05101) with decay on matrices only, its state made at once, all zero."""
    matrices = [p for p in parameters if p.ndim >= 2]
    others = [p for p in parameters if p.ndim < 2]  # biases and norms
    groups = [
        {"params": matrices, "weight_decay": inner.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=inner.lr, betas=inner.betas, fused=True)
    for parameter in parameters:
        optimizer.state[parameter] = {
            "step": torch.zeros((), device=parameter.device),
            **{moment: torch.zeros_like(parameter) for moment in MOMENTS},
        }
    return optimizer
