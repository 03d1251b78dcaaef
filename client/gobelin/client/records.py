"""What travels as Flower's records: offers and farewells as they are read, contributions as sent.

Beside link.py and fleet.py the only module of the node that imports flwr.
"""

from __future__ import annotations

import os

os.environ["FLWR_TELEMETRY_ENABLED"] = "0"  # before flwr is imported: it reads them once
os.environ["FLWR_DISABLE_UPDATE_CHECK"] = "1"

import re
from collections.abc import Mapping
from dataclasses import dataclass

from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict

from gobelin.client.egress_ledger import Departure
from gobelin.client.sealer import SealedReply
from gobelin.client.spool import Spooled
from gobelin.protocols.bundle import WireArray, bundled, unbundled
from gobelin.protocols.envelope import ENVELOPE, SIGNATURE, UNSIGNED, SignedEnvelope
from gobelin.protocols.ledger import COSIGNATURE, LEDGER, Cosignature, LedgerView
from gobelin.protocols.messages import (
    BASE,
    BYTES,
    DELTA,
    ENCODING,
    ENCODING_MOMENTS,
    HEADER,
    MOMENTS,
    PAYLOAD,
    RECEIPTS,
    STEPS,
    Contribution,
    Farewell,
    MalformedMessageError,
    Notice,
    Receipt,
    RoundPlan,
    Step,
    encoding_of,
)
from gobelin.protocols.sealing import ENCODING_MASKED, MASK, MASKED, SealedAnswer, SealedCall
from gobelin.protocols.version import protocol_of
from gobelin.shared.errors import OTHER_VERSION, ContributionError, EgressError, LedgerError
from gobelin.shared.formats import require_plan
from gobelin.shared.step import CodedStep
from gobelin.shared.vector import DTYPE

OUR_ERROR = 100  # Flower error code of replies that carry one of our codes
CODE = re.compile(r"gobelin:[a-z_.]{1,64}")  # never an exception's text


@dataclass(frozen=True)
class Offer:
    """What comes with a plan: its base, whole or as steps, moments and receipts."""

    plan: RoundPlan
    envelope: SignedEnvelope
    segments: dict[str, bytes] | None
    steps: list[CodedStep]
    moments: bytes
    receipts: list[Receipt]


def read_plan(content: RecordDict) -> RoundPlan:
    """The plan of a message; raises ContributionError when it is malformed, or ProtocolError."""
    try:
        data = content[HEADER][PAYLOAD]
        require_plan(protocol_of(data))
        return RoundPlan.from_bytes(data)
    except (MalformedMessageError, KeyError, TypeError):
        raise _malformed() from None


def read_offer(content: RecordDict) -> Offer:
    """The offer that a message is; raises ContributionError when it is malformed."""
    plan = read_plan(content)
    try:
        segments = _read_arrays(content[BASE], DTYPE, ENCODING) if BASE in content else None
        steps = [_read_step(content, data) for data in content[STEPS][PAYLOAD]]
        moments = content[MOMENTS][MOMENTS].data if MOMENTS in content else b""
    except (MalformedMessageError, KeyError, TypeError, AttributeError):
        raise _malformed() from None
    return Offer(plan, read_envelope(content), segments, steps, moments, read_receipts(content))


def read_farewell(content: RecordDict) -> Farewell:
    """The farewell of a message; raises ContributionError when it is malformed."""
    try:
        return Farewell.from_bytes(content[HEADER][PAYLOAD])
    except (MalformedMessageError, KeyError, TypeError):
        raise _malformed() from None


def read_notice(content: RecordDict) -> Notice:
    """The notice of a message; raises ContributionError when it is malformed."""
    try:
        return Notice.from_bytes(content[HEADER][PAYLOAD])
    except (MalformedMessageError, KeyError, TypeError):
        raise _malformed() from None


def read_call(content: RecordDict) -> SealedCall:
    """The call of a message; raises ContributionError when it is malformed."""
    try:
        return SealedCall.from_bytes(content[HEADER][PAYLOAD])
    except (MalformedMessageError, KeyError, TypeError):
        raise _malformed() from None


def read_envelope(content: RecordDict) -> SignedEnvelope:
    """The envelope of a message as it came; what is none is left to who opens it."""
    try:
        data, signature = content[ENVELOPE][PAYLOAD], content[ENVELOPE][SIGNATURE]
    except (KeyError, TypeError):
        return UNSIGNED
    if not isinstance(data, bytes) or not isinstance(signature, str):
        return UNSIGNED
    return SignedEnvelope(data, signature)


def _read_step(content: RecordDict, header: bytes) -> CodedStep:
    step = Step.from_bytes(header)
    arrays = content[f"{STEPS}.{step.round}"]
    return CodedStep(step, _read_arrays(arrays, BYTES, encoding_of(step.codec)))


def _read_arrays(arrays: Mapping[str, Array], dtype: str, encoding: str) -> dict[str, bytes]:
    wire = _unpacked(arrays)
    if any((array.dtype, array.encoding) != (dtype, encoding) for array in wire.values()):
        raise ContributionError("the base has an encoding this node does not know")
    return {name: array.data for name, array in wire.items()}


def _unpacked(arrays: Mapping[str, Array]) -> dict[str, WireArray]:
    """Arrays out of their bundles; raises MalformedMessageError where a bundle is none."""
    return unbundled(
        {name: WireArray(a.dtype, tuple(a.shape), a.stype, a.data) for name, a in arrays.items()}
    )


def read_receipts(content: RecordDict) -> list[Receipt]:
    """The receipts of a message; raises ContributionError when one is malformed."""
    try:
        return list(map(Receipt.from_bytes, content[RECEIPTS][PAYLOAD]))
    except (MalformedMessageError, KeyError, TypeError, AttributeError):
        raise _malformed() from None


def read_ledger(content: RecordDict) -> LedgerView:
    """What a message shows of the ledger; raises LedgerError when it is malformed."""
    try:
        return LedgerView.from_records(content[LEDGER])
    except (MalformedMessageError, KeyError, TypeError, AttributeError):
        raise LedgerError(
            "the aggregator shows nothing of its ledger", "ask its operator to upgrade gobelin"
        ) from None


def _malformed() -> ContributionError:
    return ContributionError("the aggregator's message is malformed", OTHER_VERSION)


def describe(reply: Message) -> Departure:
    """What a reply is, as it goes on the egress ledger; raises EgressError on any other.

    Nothing leaves but a contribution with its envelope and moments, an answer in a sealed round,
    one of our own error codes, and an acknowledgement; with contribution and acknowledgement, this
    node's cosignature of the ledger.
    """
    if reply.has_error():
        reason = str(reply.error.reason)
        if reply.error.code != OUR_ERROR or not CODE.fullmatch(reason):
            raise EgressError("an answer that is none of this node's codes")
        return Departure("answer", code=reason)
    content = reply.content
    if set(content) == {HEADER, DELTA}:
        return _describe_sealed(content)
    size, weight = _cosignature(content) if COSIGNATURE in content else (0, 0)
    if not set(content) - {COSIGNATURE}:
        return Departure("acknowledgement", cosigned=size, cosignature_bytes=weight)
    least, more = {HEADER, ENVELOPE, DELTA}, {MOMENTS, COSIGNATURE}
    if not least <= set(content) <= least | more:
        raise EgressError("a reply with records that no contribution has")
    try:
        header, signed = content[HEADER], content[ENVELOPE]
        made = Contribution.from_bytes(header[PAYLOAD])
        arrays = _unpacked(dict(content[DELTA].items()))
        beside = _unpacked(dict(content[MOMENTS].items())) if MOMENTS in content else {}
        sizes = sum(_weigh(array, encoding_of(made.codec)) for array in arrays.values())
        moments = sum(_weigh(array, ENCODING_MOMENTS) for array in beside.values())
    except (MalformedMessageError, KeyError, TypeError, AttributeError):
        raise EgressError("a reply that is no contribution") from None
    told = set(header), set(signed), set(beside)
    if told != ({PAYLOAD}, {PAYLOAD, SIGNATURE}, {MOMENTS} & set(beside)):
        raise EgressError("a contribution that carries more than one does")
    return Departure(
        "contribution",
        round=made.round,
        codec=made.codec,
        digest=made.digest,
        payload_bytes=sizes,
        moments_bytes=moments,
        metrics=tuple(sorted(made.metrics)),
        cosigned=size,
        cosignature_bytes=weight,
    )


def _cosignature(content: RecordDict) -> tuple[int, int]:
    """The size of the head that a reply cosigns, and the bytes of the cosignature."""
    try:
        record = content[COSIGNATURE]
        data = record[PAYLOAD]
        size, alone = Cosignature.from_bytes(data).size, set(record) == {PAYLOAD}
    except (MalformedMessageError, KeyError, TypeError, AttributeError):
        raise EgressError("a cosignature that is none") from None
    if not alone:
        raise EgressError("a cosignature that carries more than one does")
    return size, len(data)


def _describe_sealed(content: RecordDict) -> Departure:
    """An answer in a sealed round: what is told, and masked words where that is their phase."""
    try:
        answer = SealedAnswer.from_bytes(content[HEADER][PAYLOAD])
        arrays = _unpacked(dict(content[DELTA].items()))
        sizes = sum(_weigh(array, ENCODING_MASKED) for array in arrays.values())
    except (MalformedMessageError, KeyError, TypeError, AttributeError):
        raise EgressError("a reply that is no answer in a sealed round") from None
    if set(content[HEADER]) != {PAYLOAD} or bool(arrays) != (answer.phase == MASK):
        raise EgressError("an answer in a sealed round that carries more than one does")
    return Departure(f"sealed.{answer.phase}", digest=answer.digest, payload_bytes=sizes)


def _weigh(array: WireArray, encoding: str) -> int:
    if array.encoding != encoding:
        raise EgressError("an array of another encoding than its contribution's")
    return len(array.data)


def contribution_record(spooled: Spooled) -> RecordDict:
    """A contribution as Flower carries it: header, its segments in arrays, and moments if any.

    Of one to a sealed round the header alone; its delta leaves masked or not at all.
    """
    payload = spooled.payload
    lengths = {name: end - start for name, (start, end) in payload.schema.segments.items()}
    wire = bundled(
        {
            name: WireArray(DTYPE, (lengths[name],), encoding_of(payload.codec), data)
            for name, data in payload.segments.items()
            if not spooled.contribution.sealed
        }
    )
    arrays = ArrayRecord({name: Array(*array) for name, array in wire.items()})
    header = ConfigRecord({PAYLOAD: spooled.contribution.to_bytes()})
    data, signature = spooled.envelope
    envelope = ConfigRecord({PAYLOAD: data, SIGNATURE: signature})
    record = RecordDict({HEADER: header, ENVELOPE: envelope, DELTA: arrays})
    if data := spooled.moments:
        record[MOMENTS] = ArrayRecord({MOMENTS: Array(BYTES, (len(data),), ENCODING_MOMENTS, data)})
    return record


def cosigned(content: RecordDict, cosignature: bytes) -> RecordDict:
    """A reply, and with it this node's cosignature of the newest head it believes, if there is one.

    `cosignature` is a `Cosignature`'s bytes, or none at all.
    """
    if cosignature:
        content[COSIGNATURE] = ConfigRecord({PAYLOAD: cosignature})
    return content


def sealed_record(reply: SealedReply) -> RecordDict:
    """An answer in a sealed round as Flower carries it, with an array a masked segment if any."""
    arrays = {
        name: Array(MASKED, (len(data) // 4,), ENCODING_MASKED, data)
        for name, data in reply.segments.items()
    }
    header = ConfigRecord({PAYLOAD: reply.answer.encode()})
    return RecordDict({HEADER: header, DELTA: ArrayRecord(arrays)})
