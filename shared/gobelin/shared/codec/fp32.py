"""fp32: the canonical bytes as they are, 32 bits a value."""

from __future__ import annotations

from torch import Tensor

from gobelin.shared.codec.codec import require_finite, require_size
from gobelin.shared.vector import bytes_of_tensor, tensor_of_bytes


class Fp32:
    """Loses nothing."""

    feedback = 1.0

    def encode(self, values: Tensor) -> bytes:
        """Little-endian fp32."""
        return bytes(bytes_of_tensor(require_finite(values).cpu()))

    def decode(self, data: bytes, count: int) -> Tensor:
        """The values."""
        require_size(self, data, count)
        return require_finite(tensor_of_bytes(data))

    def bounds(self, count: int) -> tuple[int, int]:
        """Four bytes a value."""
        return 4 * count, 4 * count
