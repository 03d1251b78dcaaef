"""Ranks: the processes of one node, whose batches count as one.

A statistic that is no mean over samples, like SIGReg's, is not the mean of what the ranks find on
their shares: their sums must meet before they are squared. `Ranks` adds them up as a
differentiable collective does. Its backward is a sum over ranks as well, so that a rank's gradient
is that of the sum of all ranks' equal losses, and `DistributedDataParallel`, which averages over
ranks, ends at exactly the gradient of one process with the whole batch. (To reduce in place,
without a backward, loses the factor of the number of ranks.)
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Ranks:
    """The ranks of a process group; the default group (all of them) where None.

    Every rank must make the same calls in the same order, as for any collective.
    """

    group: dist.ProcessGroup | None = None

    @property
    def size(self) -> int:
        """How many there are."""
        return dist.get_world_size(self.group)

    @property
    def rank(self) -> int:
        """Which one this process is."""
        return dist.get_rank(self.group)

    @classmethod
    def here(cls) -> Ranks | None:
        """Those of the default process group, if there is one and this process is not alone."""
        started = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
        return cls() if started else None

    def __deepcopy__(self, memo: dict[int, Any]) -> Ranks:
        return self  # a process group is this process's, not the copied model's

    def sum(self, own: Tensor) -> Tensor:
        """The sum of all ranks' tensors of one shape; a constant to the gradient."""
        total = own.detach().clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=self.group)
        return total

    def total(self, cosines: Tensor, sines: Tensor, samples: int) -> tuple[Tensor, Tensor, Tensor]:
        """The sums of all ranks' sums (any equal shapes) and of their samples (), in one message.

        Ranks may have different numbers of samples.
        """
        count = cosines.new_tensor([samples])
        flat = self.sum(torch.cat([cosines.flatten(), sines.flatten(), count]))
        size = cosines.numel()
        both = flat[:size].view(cosines.shape), flat[size : 2 * size].view(cosines.shape)
        return *both, flat[-1]

    def add(self, own: Tensor) -> Tensor:
        """The sum of all ranks' tensors of one shape, with its gradient."""
        total: Tensor = _Add.apply(own, self)  # type: ignore[no-untyped-call]
        return total

    def gather(self, own: Tensor, dim: int = 0) -> Tensor:
        """All ranks' tensors of one shape along `dim`, in the order of ranks, with the gradient."""
        parts = [own if rank == self.rank else torch.zeros_like(own) for rank in range(self.size)]
        return self.add(torch.cat(parts, dim=dim))

    def average(self, tensors: Iterable[Tensor]) -> None:
        """Put the mean over ranks into each tensor, in one message; no gradient."""
        own = list(tensors)
        mean = self.sum(torch.cat([t.flatten() for t in own])) / self.size
        for tensor, part in zip(own, torch.split(mean, [t.numel() for t in own]), strict=True):
            tensor.copy_(part.view_as(tensor))


class _Add(torch.autograd.Function):
    """A sum over ranks whose backward is one as well."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, ranks: Ranks) -> Tensor:
        ctx.ranks = ranks
        return ranks.sum(own)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        return ctx.ranks.sum(upstream), None
