"""Sequences: what series and text share on their way to tokens, and positions along one axis."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gobelin.shared.modality.image_tokenizer import WAVELENGTH


class SequenceTokenizer(nn.Module):
    """Sequences (B, T, C) to tokens (B, T / P, D): a convolution along time, then linear patches.

    The convolution pads with zeros, so a sequence that ends in zeros has the tokens, as far as it
    goes, of the same one cut off there.
    """

    def __init__(
        self,
        channels: int,  # C
        hidden: int,  # channels after the convolution
        kernel: int,  # steps, odd
        patch: int,  # P, steps a token
        dim: int,  # D
        spacing: float = 1.0,  # of tokens, in radians of the fastest position channel
    ) -> None:
        super().__init__()
        self.patch, self.spacing = patch, spacing
        self.mix = nn.Conv1d(channels, hidden, kernel, padding=kernel // 2)
        self.embed = nn.Linear(patch * hidden, dim)

    def forward(self, sequences: Tensor) -> Tensor:
        """Tokens in the order of time."""
        mixed = F.gelu(self.mix(sequences.transpose(1, 2))).transpose(1, 2)  # (B, T, hidden)
        batch, steps, hidden = mixed.shape
        count = steps // self.patch
        tokens: Tensor = self.embed(mixed.reshape(batch, count, self.patch * hidden))
        dim = tokens.shape[2]
        centres = (torch.arange(count, device=tokens.device) + 0.5) * self.spacing
        return tokens + sines(centres, dim).to(tokens.dtype)


def sines(coordinates: Tensor, dim: int) -> Tensor:
    """Fixed sine-cosine positions (N, dim), dim even, of coordinates (N,) (arXiv:1706.03762 §3.5).

    The fastest channel has a wavelength of 2π, the slowest nearly WAVELENGTH times that.
    """
    half = dim // 2
    scale = torch.arange(half, device=coordinates.device, dtype=torch.float32) / half
    angles = coordinates.float()[:, None] * WAVELENGTH**-scale  # (N, dim / 2)
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def spacing_of(patch_seconds: float, wavelength: float | None) -> float:
    """Distance of tokens for SequenceTokenizer, so that its fastest channel has `wavelength`.

    Without one, that is 2π tokens, whatever they last.
    """
    return 1.0 if wavelength is None else 2 * math.pi * patch_seconds / wavelength


def take_spans(sequences: Tensor, starts: Tensor, length: int) -> Tensor:
    """Of sequences (B, T, ...) `length` steps each, from starts (B,) on: (B, length, ...)."""
    steps = starts[:, None] + torch.arange(length, device=starts.device)
    rows = torch.arange(len(sequences), device=starts.device)[:, None]
    return sequences[rows, steps.clamp(max=sequences.shape[1] - 1)]
