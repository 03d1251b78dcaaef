"""Codecs: how a delta becomes few bytes and comes back, with what was lost kept for later."""

from gobelin.shared.codec.codec import Codec, distortion
from gobelin.shared.codec.feedback import Compressed, compress
from gobelin.shared.codec.payload import Payload, describe_codec
from gobelin.shared.codec.table import CODECS, CodecName, codec_named

__all__ = [
    "CODECS",
    "Codec",
    "CodecName",
    "Compressed",
    "Payload",
    "codec_named",
    "compress",
    "describe_codec",
    "distortion",
]
