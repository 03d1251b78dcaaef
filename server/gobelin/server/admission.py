"""Admission: what a reply must be before it may touch the consensus. Every refusal has a reason."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gobelin.protocols.bundle import WireArray
from gobelin.protocols.messages import (
    BYTES,
    ENCODING_MOMENTS,
    METRIC_PREMIUM_SEEN,
    METRICS,
    METRICS_PREMIUM,
    Contribution,
    MalformedMessageError,
    RoundPlan,
    encoding_of,
)
from gobelin.server.aggregation import LIMIT
from gobelin.server.reasons import Refusal as Refusal
from gobelin.server.reasons import RefusalCode
from gobelin.shared.codec import CODECS, Payload, codec_named, rungs_from
from gobelin.shared.errors import CodecError, MomentsError, VectorError
from gobelin.shared.objective import Moments
from gobelin.shared.objective.moments import digest_of, size_of
from gobelin.shared.schedule import Schedule
from gobelin.shared.vector import DTYPE, ParameterSchema, ParameterVector


@dataclass(frozen=True)
class Admitted:
    """A reply that may be aggregated."""

    contribution: Contribution
    delta: ParameterVector  # as decoded: what is aggregated is what was sent
    payload_bytes: int  # of the encoded delta as it arrived
    moments: Moments | None = None  # none where the node declined


def admit(
    plan: RoundPlan,
    schemas: Mapping[str, ParameterSchema],
    dim: int,
    header: bytes,
    arrays: Mapping[str, WireArray],
    moments: WireArray | None = None,
    batch: int | None = None,
) -> Admitted | Refusal:
    """Check a reply against the plan it answers; cheap checks come first.

    The plan's recipe says `schemas`, of what members of each modality send ("" where there is one),
    `dim`, the size D of a projection, and `batch`, the samples of a local step. Whose reply it is
    `provenance` says.
    """
    try:
        contribution = Contribution.from_bytes(header)
    except MalformedMessageError as error:
        return Refusal(RefusalCode.MALFORMED, str(error))
    if refusal := _answers(plan, contribution) or _claims(contribution, batch):
        return refusal
    if contribution.sealed:
        return Refusal(RefusalCode.UNSEALED, "a delta is to be masked in an open round")
    schema = schemas.get(contribution.modality)
    if schema is None:
        found = f"of the modality {contribution.modality!r:.40}, not of {', '.join(schemas)}"
        return Refusal(RefusalCode.MODALITY, found)
    refusal = _fits(schema, contribution.codec, arrays)
    if refusal := refusal or _fits_moments(plan, dim, contribution.moments_digest, moments):
        return refusal
    payload = Payload(
        schema, contribution.codec, {name: array.data for name, array in arrays.items()}
    )
    if payload.digest != contribution.delta_digest:
        return Refusal(RefusalCode.DELTA_DIGEST, "the delta is not the one the header names")
    try:
        seen = Moments.from_bytes(moments.data, dim) if moments else None
        delta = payload.decode()
    except (CodecError, MomentsError, VectorError) as error:
        return Refusal(RefusalCode(error.code), error.what)
    if delta.largest > LIMIT:
        found = f"a parameter moved by {delta.largest:.3g}, at most {LIMIT:.3g}"
        return Refusal(RefusalCode.MAGNITUDE, found)
    return Admitted(contribution, delta, payload.size, seen)


@dataclass(frozen=True)
class Announced:
    """A reply to a sealed plan: local steps are done, and the delta waits to be masked."""

    contribution: Contribution


def admit_sealed(
    plan: RoundPlan,
    header: bytes,
    arrays: Mapping[str, WireArray],
    moments: WireArray | None,
    batch: int | None = None,
) -> Announced | Refusal:
    """Check a reply to a sealed plan, which has a header and nothing beside it."""
    try:
        contribution = Contribution.from_bytes(header)
    except MalformedMessageError as error:
        return Refusal(RefusalCode.MALFORMED, str(error))
    if refusal := _answers(plan, contribution) or _claims(contribution, batch):
        return refusal
    if arrays or moments is not None or not contribution.sealed:
        return Refusal(RefusalCode.UNSEALED, "something came in the clear in a sealed round")
    if contribution.local_steps != plan.local_steps:
        found = f"{contribution.local_steps} local steps; sealed rounds take {plan.local_steps}"
        return Refusal(RefusalCode.LOCAL_STEPS, found)
    if contribution.modality:
        return Refusal(RefusalCode.MODALITY, "sealed rounds are of one modality")
    return Announced(contribution)


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
    asked = Schedule.of(plan).steps_of(plan.round)
    if not 1 <= contribution.local_steps <= asked:
        found = f"{contribution.local_steps} local steps, the plan says {asked}"
        return Refusal(RefusalCode.LOCAL_STEPS, found)
    if (by := contribution.codec) not in rungs_from(plan.codec):
        code = RefusalCode.CODEC_FINER if by in CODECS else RefusalCode.CODEC
        return Refusal(code, f"encoded by {by:.20}, the plan says {plan.codec} or coarser")
    return None


def _claims(contribution: Contribution, batch: int | None) -> Refusal | None:
    """Whether what it says of itself can be; no weight follows from it all the same."""
    most = None if batch is None else contribution.local_steps * batch
    if most is not None and contribution.samples > most:
        found = f"{contribution.samples} samples, {contribution.local_steps} steps have {most}"
        return Refusal(RefusalCode.CLAIMS, found)
    if contribution.seconds < 0:
        return Refusal(RefusalCode.CLAIMS, "took less than no time")
    if unknown := sorted(contribution.metrics.keys() - METRICS):
        return Refusal(RefusalCode.CLAIMS, f"says {unknown[0]!r:.40}, which nobody asks for")
    told = contribution.metrics
    if any(abs(told.get(name, 0.0)) > 100 for name in METRICS_PREMIUM.values()):
        return Refusal(RefusalCode.CLAIMS, "a premium of more than 100 points")
    if not 0 <= told.get(METRIC_PREMIUM_SEEN, 0.0) <= 1:
        return Refusal(RefusalCode.CLAIMS, "a premium at a share of samples that is none")
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


def _fits_moments(
    plan: RoundPlan, dim: int, named: str, moments: WireArray | None
) -> Refusal | None:
    """Whether moments are the named ones, of the size D says, and asked for; none are allowed."""
    if moments is None:
        missing = Refusal(RefusalCode.MOMENTS_DIGEST, "the header names moments, there are none")
        return missing if named else None
    if not plan.cross_node:
        return Refusal(RefusalCode.MOMENTS_UNASKED, "there are moments, the plan asks for none")
    if moments.dtype != BYTES or moments.encoding != ENCODING_MOMENTS:
        return Refusal(
            RefusalCode.MOMENTS, f"moments are {moments.dtype:.20} {moments.encoding:.20}"
        )
    if not tuple(moments.shape) == (len(moments.data),) == (size_of(dim),):
        return Refusal(
            RefusalCode.MOMENTS, f"{len(moments.data)} bytes of moments, not {size_of(dim)}"
        )
    if digest_of(moments.data) != named:
        return Refusal(RefusalCode.MOMENTS_DIGEST, "the moments are not the ones the header names")
    return None
