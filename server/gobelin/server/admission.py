"""Admission: what a reply must be before it may touch the consensus. Every refusal has a reason."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from gobelin.protocols.messages import (
    Contribution,
    MalformedMessageError,
    RoundPlan,
    encoding_of,
)
from gobelin.server.aggregation import LIMIT
from gobelin.shared.codec import CODECS, Payload, codec_named, rungs_from
from gobelin.shared.errors import CodecError, VectorError
from gobelin.shared.vector import DTYPE, ParameterSchema, ParameterVector


class WireArray(NamedTuple):
    """One segment of a delta as it came off the wire, nothing believed yet."""

    dtype: str
    shape: tuple[int, ...]
    encoding: str
    data: bytes


@dataclass(frozen=True)
class Refusal:
    """Why a reply is not counted: a stable reason code and one line about what was found."""

    reason: str
    found: str


@dataclass(frozen=True)
class Admitted:
    """A reply that may be aggregated."""

    contribution: Contribution
    delta: ParameterVector  # as decoded: what is aggregated is what was sent
    payload_bytes: int  # of the encoded delta as it arrived


def admit(
    plan: RoundPlan, schema: ParameterSchema, header: bytes, arrays: Mapping[str, WireArray]
) -> Admitted | Refusal:
    """Check a reply against the plan it answers; cheap checks come first."""
    try:
        contribution = Contribution.from_bytes(header)
    except MalformedMessageError as error:
        return Refusal("malformed", str(error))
    if refusal := _answers(plan, contribution) or _fits(schema, contribution.codec, arrays):
        return refusal
    payload = Payload(
        schema, contribution.codec, {name: array.data for name, array in arrays.items()}
    )
    if payload.digest != contribution.delta_digest:
        return Refusal("delta_digest", "the delta is not the one the header names")
    try:
        delta = payload.decode()
    except (CodecError, VectorError) as error:
        return Refusal(error.code, error.what)
    largest = float(delta.values.abs().max())
    if largest > LIMIT:
        return Refusal("magnitude", f"a parameter moved by {largest:.3g}, at most {LIMIT:.3g}")
    return Admitted(contribution, delta, payload.size)


def _answers(plan: RoundPlan, contribution: Contribution) -> Refusal | None:
    """Whether the header answers this very plan."""
    if contribution.federation != plan.federation:
        return Refusal("federation", "made for another federation")
    if contribution.round != plan.round:
        return Refusal("round", f"made for round {contribution.round}, this is {plan.round}")
    if contribution.base_digest != plan.base_digest:
        return Refusal("base_digest", "trained from another base")
    if contribution.plan_digest != plan.digest:
        return Refusal("plan_digest", "answers another plan")
    if contribution.local_steps != plan.local_steps:
        found = contribution.local_steps
        return Refusal("local_steps", f"{found} local steps, the plan says {plan.local_steps}")
    if (by := contribution.codec) not in rungs_from(plan.codec):
        reason = "codec_finer" if by in CODECS else "codec"
        return Refusal(reason, f"encoded by {by:.20}, the plan says {plan.codec} or coarser")
    return None


def _fits(schema: ParameterSchema, codec: str, arrays: Mapping[str, WireArray]) -> Refusal | None:
    """Whether the arrays are the schema's segments, by their headers and sizes alone.

    Schema and codec bound what a payload can weigh, so nothing is decoded that cannot be one.
    """
    if set(arrays) != set(schema.segments):
        return Refusal("vector.names", f"{len(arrays)} segments that are not the schema's")
    for name, (start, end) in schema.segments.items():
        array, size = arrays[name], end - start
        if array.dtype != DTYPE or array.encoding != encoding_of(codec):
            found = f"{array.dtype:.20} {array.encoding:.20}"
            return Refusal("vector.dtype", f"segment {name} is {found}")
        least, most = codec_named(codec).bounds(size)
        if tuple(array.shape) != (size,) or not least <= len(array.data) <= most:
            return Refusal("vector.shape", f"segment {name} has another shape or size")
    return None
