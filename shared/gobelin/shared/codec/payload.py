"""A delta as it travels: every segment of the vector encoded by itself."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gobelin.shared.codec.codec import require_size
from gobelin.shared.codec.table import codec_named
from gobelin.shared.codec_name import LOSSLESS
from gobelin.shared.turns import take_turns
from gobelin.shared.vector import ParameterSchema, ParameterVector


@dataclass(frozen=True)
class Payload:
    """The encoded segments of one vector, by the names its schema gives them."""

    schema: ParameterSchema
    codec: str
    segments: Mapping[str, bytes]

    @property
    def size(self) -> int:
        """Bytes of all segments."""
        return sum(map(len, self.segments.values()))

    @property
    def digest(self) -> str:
        """SHA-256 over the segments in order; at fp32 this is the digest of the vector itself.

        Over what is sent and not over what it decodes to: it can be checked before anything is
        decoded. Every codec's payload says its own end, so no byte can change segments unnoticed.
        """
        digest = hashlib.sha256()
        for name in sorted(self.segments):
            digest.update(self.segments[name])
        return digest.hexdigest()

    def tensors(self) -> dict[str, Tensor]:
        """The segments as uint8 tensors (bytes,), which is how they lie in a file."""
        return {
            name: torch.from_numpy(np.frombuffer(data, np.uint8).copy())
            for name, data in self.segments.items()
        }

    def decode(self) -> ParameterVector:
        """The vector, segment by segment; raises CodecError or NotFiniteError."""
        codec = codec_named(self.codec)
        values = torch.empty(self.schema.size)
        place = values.numpy()

        def decode(name: str) -> None:
            start, end = self.schema.segments[name]
            data = self.segments[name]
            if self.codec == LOSSLESS:  # as it is, to where it belongs: ten times as fast
                require_size(codec, data, end - start)
                place[start:end] = np.frombuffer(data, "<f4")
            else:
                values[start:end] = codec.decode(data, end - start)

        for _ in take_turns(decode, list(self.schema.segments)):
            pass
        return ParameterVector(self.schema, values)


def segments_of(tensors: Mapping[str, Tensor]) -> dict[str, bytes]:
    """The segments that `Payload.tensors` put into a file."""
    return {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}
