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
from gobelin.server.reasons import RefusalCode
from gobelin.shared.codec import Payload, codec_named
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
    """Why a reply is not counted: the reason code and one line about what was found."""

    reason: RefusalCode
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
        return Refusal(RefusalCode.MALFORMED, str(error))
    if refusal := _answers(plan, contribution) or _fits(schema, plan.codec, arrays):
        return refusal
    payload = Payload(schema, plan.codec, {name: array.data for name, array in arrays.items()})
    if payload.digest != contribution.delta_digest:
        return Refusal(RefusalCode.DELTA_DIGEST, "the delta is not the one the header names")
    try:
        delta = payload.decode()
    except (CodecError, VectorError) as error:
        return Refusal(RefusalCode(error.code), error.what)
    largest = float(delta.values.abs().max())
    if largest > LIMIT:
        return Refusal(
            RefusalCode.MAGNITUDE, f"a parameter moved by {largest:.3g}, at most {LIMIT:.3g}"
        )
    return Admitted(contribution, delta, payload.size)


def _answers(plan: RoundPlan, contribution: Contribution) -> Refusal | None:
    """Whether the header answers this very plan."""
    if contribution.federation != plan.federation:
        return Refusal(RefusalCode.FEDERATION, "made for another federation")
    if contribution.round != plan.round:
        return Refusal(
            RefusalCode.ROUND, f"made for round {contribution.round}, this is {plan.round}"
        )
    if contribution.base_digest != plan.base_digest:
        return Refusal(RefusalCode.BASE_DIGEST, "trained from another base")
    if contribution.plan_digest != plan.digest:
        return Refusal(RefusalCode.PLAN_DIGEST, "answers another plan")
    if not 1 <= contribution.local_steps <= plan.local_steps:
        found = f"{contribution.local_steps} local steps, the plan says {plan.local_steps}"
        return Refusal(RefusalCode.LOCAL_STEPS, found)
    if contribution.codec != plan.codec:
        by = contribution.codec
        return Refusal(RefusalCode.CODEC, f"encoded by {by:.20}, the plan says {plan.codec}")
    return None


def _fits(schema: ParameterSchema, codec: str, arrays: Mapping[str, WireArray]) -> Refusal | None:
    """Whether the arrays are the schema's segments, by their headers and sizes alone.

    Schema and codec bound what a payload can weigh, so nothing is decoded that cannot be one.
    """
    if set(arrays) != set(schema.segments):
        return Refusal(RefusalCode.NAMES, f"{len(arrays)} segments that are not the schema's")
    for name, (start, end) in schema.segments.items():
        array, size = arrays[name], end - start
        if array.dtype != DTYPE or array.encoding != encoding_of(codec):
            found = f"{array.dtype:.20} {array.encoding:.20}"
            return Refusal(RefusalCode.DTYPE, f"segment {name} is {found}")
        least, most = codec_named(codec).bounds(size)
        if tuple(array.shape) != (size,) or not least <= len(array.data) <= most:
            return Refusal(RefusalCode.SHAPE, f"segment {name} has another shape or size")
    return None
