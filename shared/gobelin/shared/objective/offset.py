"""Offsets: what makes a node's SIGReg a test of all nodes' data.

Private data makes SIGReg a test per node: each node stretches its own part of the world over the
whole Gaussian, and averaging then blurs. But an empirical characteristic function is linear in the
distribution, so a node that knows how all nodes' data differ from its own, on the base, can test

    C = C_own(live batch) + [C_global − C_own](base),   S alike,

a control variate: at the base its expectation is the global C, and away from it C follows the
node's own move. (SCAFFOLD, arXiv:1910.06378, corrects gradients in the same way.)
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


class Offset(Protocol):
    """Global − own: draws a step's slices (dim, M) with what is added to (C, S) under them."""

    def draw(
        self,
        seed: int,
        dim: int,
        slices: int,
        knots: int,
        t_max: float,
        device: torch.device | str = "cpu",
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Directions (dim, M), and their offsets, each (M, K)."""
        ...
