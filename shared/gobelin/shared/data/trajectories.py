"""Trajectories: what was observed, and what was done in between."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Trajectories:
    """A batch of B windows of T steps, each inside one episode.

    `observations` are uint8 pixels (B, T + 1, C, H, W) or float32 vectors (B, T + 1, S), `actions`
    float32 (B, T, A): action t leads from observation t to observation t + 1.
    """

    observations: Tensor
    actions: Tensor

    def __len__(self) -> int:
        return len(self.actions)

    def __getitem__(self, rows: slice) -> Trajectories:
        return Trajectories(self.observations[rows], self.actions[rows])

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Trajectories:
        """The same on another device."""
        return Trajectories(
            self.observations.to(device, non_blocking=non_blocking),
            self.actions.to(device, non_blocking=non_blocking),
        )

    def pin_memory(self) -> Trajectories:
        """The same in page-locked memory, from which an accelerator copies without waiting."""
        return Trajectories(self.observations.pin_memory(), self.actions.pin_memory())


@dataclass(frozen=True, eq=False)
class Labelled:
    """A batch of B raw samples and what they are: int64 labels (B,)."""

    samples: Tensor | Trajectories
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: slice) -> Labelled:
        return Labelled(self.samples[rows], self.labels[rows])

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Labelled:
        """The same on another device."""
        return Labelled(
            self.samples.to(device, non_blocking=non_blocking),
            self.labels.to(device, non_blocking=non_blocking),
        )

    def pin_memory(self) -> Labelled:
        """The same in page-locked memory, from which an accelerator copies without waiting."""
        return Labelled(self.samples.pin_memory(), self.labels.pin_memory())


# Raw samples as a source reads them; what is trained on labels has these beside them.
Batch: TypeAlias = Tensor | Trajectories | Labelled
