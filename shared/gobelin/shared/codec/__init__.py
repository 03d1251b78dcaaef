"""Codecs: how a delta becomes few bytes and comes back, with what was lost kept for later."""

from gobelin.shared.codec.codec import Codec, distortion
from gobelin.shared.codec.feedback import Compressed, compress
from gobelin.shared.codec.payload import Payload, segments_of
from gobelin.shared.codec.rung import most_bytes, pick_rung
from gobelin.shared.codec.table import CODECS, codec_named, rungs_from
from gobelin.shared.codec_name import LOSSLESS, CodecName, describe_codec

__all__ = [
    "CODECS",
    "LOSSLESS",
    "Codec",
    "CodecName",
    "Compressed",
    "Payload",
    "codec_named",
    "compress",
    "describe_codec",
    "distortion",
    "most_bytes",
    "pick_rung",
    "rungs_from",
    "segments_of",
]
