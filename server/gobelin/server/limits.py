"""Limits: how large an honest answer to a plan can be, known before any of it is read."""

from __future__ import annotations

from dataclasses import dataclass

from gobelin.protocols.messages import MAX_BYTES
from gobelin.server.objects import CHUNK, HEAD
from gobelin.shared.codec import codec_named, rungs_from
from gobelin.shared.objective.moments import size_of
from gobelin.shared.vector import ParameterSchema

RECORDS = 8  # message, records, header, envelope, delta, moments, cosignature


@dataclass(frozen=True)
class Limit:
    """Of one answer as Flower carries it: objects, and bytes of all of them."""

    objects: int
    bytes: int


SMALL = Limit(RECORDS, MAX_BYTES)  # an answer that carries no contribution


def limit_of(schema: ParameterSchema, codec: str, dim: int | None = None) -> Limit:
    """The largest answer: all of a schema by the plan's codec, or a coarser one, and moments.

    `dim` is the size of a projection where moments are asked for.
    """
    sizes = [end - start for start, end in schema.segments.values()]
    payload = max(
        sum(codec_named(rung).bounds(size)[1] for size in sizes) for rung in rungs_from(codec)
    )
    moments = 0 if dim is None else size_of(dim)
    arrays = len(sizes) + (dim is not None)
    chunks = payload // CHUNK + moments // CHUNK + arrays
    objects = RECORDS + arrays + chunks
    return Limit(objects, payload + moments + 3 * MAX_BYTES + objects * HEAD)
