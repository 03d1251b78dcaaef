"""The names of codecs, and how one is told of: for settings and pages, which need no tensors."""

from __future__ import annotations

from typing import Literal

CodecName = Literal["fp32", "bf16", "int8", "int4", "topk"]
LOSSLESS: CodecName = "fp32"


def describe_codec(codec: str, size: float, distortion: float) -> str:
    """For an operator: the codec, the bytes sent, and what was lost where something was."""
    lost = f", distortion {distortion:.2g}" if distortion else ""
    return f"{codec}, {size / 1e6:.3g} MB{lost}"
