"""int4: blocks of 64 values with one bf16 scale each; 4.25 bits a value, 7.53 times fewer bytes."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from gobelin.shared.codec.bf16 import bf16_bytes
from gobelin.shared.codec.blocks import quantise, read_scales, restore
from gobelin.shared.codec.codec import require_finite, require_size

BLOCK = 64
RIM = 7
ZERO = 8  # how code 0 is written, so that nibbles are 1 … 15


class Int4:
    """Payload: scales as bf16, then a nibble a value, the lower half of a byte first."""

    feedback = 1.0

    def encode(self, values: Tensor) -> bytes:
        """The payload of `values`; |x − Q(x)| ≤ scale / 2."""
        scales, codes = quantise(require_finite(values), BLOCK, RIM)
        nibbles = torch.nn.functional.pad(codes + ZERO, (0, codes.numel() % 2)).view(-1, 2)
        packed = (nibbles[:, 0] | (nibbles[:, 1] << 4)).cpu().numpy()
        return bf16_bytes(scales) + packed.tobytes()

    def decode(self, data: bytes, count: int) -> Tensor:
        """The values of a payload."""
        require_size(self, data, count)
        split = len(data) - (count + 1) // 2
        packed = torch.from_numpy(np.frombuffer(data, np.uint8, offset=split).copy())
        nibbles = torch.stack([packed & 15, packed >> 4], dim=1).view(-1)[:count]
        return restore(read_scales(data[:split]), nibbles.to(torch.int8) - ZERO, BLOCK)

    def bounds(self, count: int) -> tuple[int, int]:
        """Half a byte a value and two bytes a block."""
        size = (count + 1) // 2 + 2 * -(-count // BLOCK)
        return size, size
