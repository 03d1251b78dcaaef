"""What every codec is: bytes from a vector and back, of a size known beforehand."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from gobelin.shared.errors import CodecError, DtypeError, NotFiniteError, ShapeError
from gobelin.shared.vector import all_finite, squared


class Codec(Protocol):
    """Turns fp32 values into bytes and back; without state, the same bits on every machine."""

    @property
    def feedback(self) -> float:
        """The share β of last round's residual that is added before encoding."""
        ...

    def encode(self, values: Tensor) -> bytes:
        """The payload of fp32 `values` (n,); raises NotFiniteError on NaN or infinity."""
        ...

    def decode(self, data: bytes, count: int) -> Tensor:
        """The finite fp32 values (count,) of a payload.

        Raises CodecError when it is none of this codec's, NotFiniteError on NaN or infinity in it.
        """
        ...

    def bounds(self, count: int) -> tuple[int, int]:
        """The least and the most bytes a payload of `count` values can have."""
        ...


def distortion(values: Tensor, decoded: Tensor) -> float:
    """‖x − Q(x)‖² / ‖x‖², accumulated in fp64; 0 for the zero vector, which every codec keeps."""
    power = squared(values)
    return squared(values - decoded) / power if power else 0.0


def require_finite(values: Tensor) -> Tensor:
    """`values` as they are; raises VectorError unless they are flat, fp32 and finite."""
    if values.dtype != torch.float32:
        raise DtypeError(f"a codec takes float32, not {values.dtype}")
    if values.ndim != 1:
        raise ShapeError(f"a codec takes a flat vector, not {tuple(values.shape)}")
    if not all_finite(values):
        raise NotFiniteError("a codec takes no NaN or infinity", "lower the learning rate")
    return values


def require_size(codec: Codec, data: bytes, count: int) -> None:
    """Raise CodecError unless a payload has a size that `count` values can have."""
    least, most = codec.bounds(count)
    if not least <= len(data) <= most:
        size = f"{least}" if least == most else f"{least} to {most}"
        raise CodecError(f"a payload of {count} values has {len(data)} bytes, expected {size}")
