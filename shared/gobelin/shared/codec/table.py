"""The one table of codecs, by the name that settings and round plans use."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

from gobelin.shared.codec.bf16 import Bf16
from gobelin.shared.codec.codec import Codec
from gobelin.shared.codec.fp32 import Fp32
from gobelin.shared.codec.int4 import Int4
from gobelin.shared.codec.int8 import Int8
from gobelin.shared.codec.topk import TopK
from gobelin.shared.codec_name import CodecName
from gobelin.shared.errors import CodecError

CODECS: Mapping[CodecName, Codec] = {  # the ladder: the finest first
    "fp32": Fp32(),
    "bf16": Bf16(),
    "int8": Int8(),
    "int4": Int4(),
    "topk": TopK(),
}


def rungs_from(name: str) -> list[CodecName]:
    """The codec of a name and every coarser one, finest first; raises CodecError."""
    codec_named(name)
    return list(itertools.dropwhile(lambda known: known != name, CODECS))


def codec_named(name: str) -> Codec:
    """The codec of a name; raises CodecError when there is none."""
    for known, codec in CODECS.items():
        if name == known:
            return codec
    raise CodecError(f"no codec is called {name[:20]!r}", f"use one of {', '.join(CODECS)}")
