"""bf16: the upper half of fp32, rounded to nearest; 16 bits a value, relative error ≤ 2⁻⁸.

It has the range of fp32, so the other codecs keep their scales in it too: nothing that fp32 can
say is too small or too large for it, and the product with a short integer is exact.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from gobelin.shared.codec.codec import require_finite, require_size

LARGEST = torch.finfo(torch.bfloat16).max


class Bf16:
    """Half the bytes of fp32."""

    feedback = 1.0

    def encode(self, values: Tensor) -> bytes:
        """Little-endian bf16."""
        return bf16_bytes(require_finite(values))

    def decode(self, data: bytes, count: int) -> Tensor:
        """The values."""
        require_size(self, data, count)
        return bf16_values(data)

    def bounds(self, count: int) -> tuple[int, int]:
        """Two bytes a value."""
        return 2 * count, 2 * count


def to_bf16(values: Tensor) -> Tensor:
    """`values` to the nearest bf16; what would become infinite becomes the largest bf16."""
    return values.clamp(-LARGEST, LARGEST).to(torch.bfloat16)


def bf16_bytes(values: Tensor) -> bytes:
    """Little-endian bytes of `values` to the nearest bf16, two each."""
    bits = to_bf16(values).cpu().view(torch.int16).numpy()
    return bits.astype("<i2", copy=False).tobytes()


def bf16_values(data: bytes) -> Tensor:
    """The fp32 values of little-endian bf16; raises NotFiniteError on NaN or infinity."""
    bits = np.frombuffer(data, dtype="<u2").astype(np.uint32) << 16
    return require_finite(torch.from_numpy(bits.view(np.float32)))
