"""Error feedback: what a codec loses in one round is added to the next (arXiv:1901.09847).

c = δ + β·e, q = Q(c), e ← c − q. With β = 1 the sums of q and of δ differ by the last residual
alone, however coarse the codec, and whichever codec each round takes: β is that of the codec that
carries the debt, so topk lets a twentieth of it fade and every other codec pays it in full.

A contribution that is not counted pays nothing: its q and its δ are lost together, and the debt is
again the e it was made with. So over the rounds that count, Σ q = Σ δ + e₀ − e_T still. A node that
does not know yet what became of its last contribution takes it as counted, e ← c − q; if the word
comes one round later that it was not, the next round adds e − (c − q), what the mistake was worth.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gobelin.shared.codec.payload import Payload
from gobelin.shared.codec.table import codec_named
from gobelin.shared.errors import ShapeError
from gobelin.shared.turns import take_turns
from gobelin.shared.vector import ParameterVector, squared


@dataclass(frozen=True)
class Compressed:
    """A delta ready to be sent."""

    payload: Payload
    residual: Tensor | None  # (P,) what is still owed; None when nothing was lost
    distortion: float  # ‖c − q‖² / ‖c‖²


def compress(codec: str, delta: ParameterVector, residual: Tensor | None) -> Compressed:
    """Encode `delta` and what was owed before, segment by segment; raises VectorError.

    A lossless codec without a residual sends the delta's own bits.
    """
    by = codec_named(codec)
    if residual is not None and residual.shape != delta.values.shape:
        raise ShapeError(f"a residual of {residual.numel()} values, the delta has another number")
    owed = torch.empty(delta.schema.size)

    def encode(span: tuple[int, int]) -> tuple[bytes, float, float]:
        start, end = span
        wanted = delta.values[start:end]
        if residual is not None:
            wanted = wanted + by.feedback * residual[start:end]
        data = by.encode(wanted)
        torch.sub(wanted, by.decode(data, end - start), out=owed[start:end])
        return data, squared(owed[start:end]), squared(wanted)

    spans = delta.schema.segments
    rows = list(take_turns(encode, list(spans.values())))
    segments = {name: data for name, (data, _, _) in zip(spans, rows, strict=True)}
    lost, power = sum(row[1] for row in rows), sum(row[2] for row in rows)
    distortion = lost / power if power else 0.0
    return Compressed(Payload(delta.schema, codec, segments), owed if lost else None, distortion)
