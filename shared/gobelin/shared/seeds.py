"""Seeds: every random stream has one, mixed from a root seed and what the stream is for."""

from __future__ import annotations

import hashlib

import torch


def derive_seed(root: int, *purpose: str | int) -> int:
    """A 63-bit seed for `purpose` under `root`: equal inputs give equal seeds on every machine.

    Mixed by SHA-256, so that streams of neighbouring roots or steps have nothing in common.
    """
    text = "\0".join([str(root), *map(str, purpose)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator_of(root: int, *purpose: str | int) -> torch.Generator:
    """A CPU generator for `purpose` under `root`; draw on the CPU, then move to the device."""
    return torch.Generator().manual_seed(derive_seed(root, *purpose))
