"""What worker processes share."""

from __future__ import annotations

import torch


def one_thread() -> None:
    """In a worker: leave the other cores to the other workers."""
    torch.set_num_threads(1)
