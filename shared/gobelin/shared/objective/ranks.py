"""Ranks: the processes of one node, whose batches count as one.

A statistic that is no mean over samples, like SIGReg's, is not the mean of what the ranks find on
their shares: their sums must meet before they are squared. `Ranks` adds them up as a
differentiable collective does. Its backward is a sum over ranks as well, so that a rank's gradient
is that of the sum of all ranks' equal losses, and `DistributedDataParallel`, which averages over
ranks, ends at exactly the gradient of one process with the whole batch. (To reduce in place,
without a backward, loses the factor of the number of ranks.)
"""

from __future__ import annotations

from dataclasses import dataclass

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

    def sum(self, own: Tensor) -> Tensor:
        """The sum of all ranks' tensors of one shape."""
        total = own.clone(memory_format=torch.contiguous_format)
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
