"""What travels as Flower's records: plans and farewells as they are sent, replies as they are read.

Beside engine.py and uploads.py the only module of the aggregator that imports flwr.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.common.constant import ErrorCode

from gobelin.protocols.bundle import WireArray, bundled, unbundled
from gobelin.protocols.envelope import ENVELOPE, SIGNATURE, UNSIGNED, SignedEnvelope
from gobelin.protocols.ledger import COSIGNATURE, LEDGER, LedgerView
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
    Farewell,
    Notice,
    Receipt,
    RoundPlan,
    encoding_of,
)
from gobelin.protocols.sealing import SealedCall
from gobelin.server.courier import MALFORMED, Enclosure, Reply
from gobelin.shared.vector import DTYPE

LOST = (  # Flower's own errors that say nothing of the node's work
    ErrorCode.MESSAGE_UNAVAILABLE,
    ErrorCode.REPLY_MESSAGE_UNAVAILABLE,
    ErrorCode.NODE_UNAVAILABLE,
)
Records = dict[str, ArrayRecord | ConfigRecord]


def message_record(
    message: RoundPlan | Farewell | Notice | SealedCall,
    beside: Records,
    receipts: Iterable[Receipt],
    envelope: SignedEnvelope = UNSIGNED,
    ledger: LedgerView | None = None,
) -> RecordDict:
    """A message as Flower carries it: what is enclosed, a node's receipts, what proves them."""
    told = ConfigRecord({PAYLOAD: [receipt.to_bytes() for receipt in receipts]})
    header = ConfigRecord({PAYLOAD: message.to_bytes()})
    signed = ConfigRecord({PAYLOAD: envelope.data, SIGNATURE: envelope.signature})
    shown = {} if ledger is None else {LEDGER: ConfigRecord(ledger.to_records())}
    return RecordDict({HEADER: header, ENVELOPE: signed, RECEIPTS: told, **shown, **beside})


def enclosed(enclosure: Enclosure | None) -> Records:
    """An enclosure as Flower carries it: arrays of the segments of a base or of steps, moments."""
    if enclosure is None:
        return {}
    steps = enclosure.steps
    records: Records = {STEPS: ConfigRecord({PAYLOAD: [s.header.to_bytes() for s in steps]})}
    if enclosure.base is not None:
        records[BASE] = base = ArrayRecord()
        for name, segment in enclosure.base.segments().items():
            base[name] = _view(segment)
    for step in steps:
        by = encoding_of(step.header.codec)
        coded = step.segments.items()
        wire = bundled({name: WireArray(BYTES, (len(data),), by, data) for name, data in coded})
        arrays = {name: Array(*array) for name, array in wire.items()}
        records[f"{STEPS}.{step.header.round}"] = ArrayRecord(arrays)
    if enclosure.moments is not None:
        data = enclosure.moments.to_bytes()
        records[MOMENTS] = ArrayRecord(
            {MOMENTS: Array(BYTES, (len(data),), ENCODING_MOMENTS, data)}
        )
    return records


def _view(data: memoryview) -> Array:
    """A segment of a vector, not copied: of an array's data Flower only asks to be sliced."""
    array = Array(DTYPE, (len(data) // 4,), ENCODING, b"")
    array.data = data
    return array


def reply_of(node: str, plan: str, message: Message) -> Reply:
    """A Flower message as a reply; anything unexpected becomes an error code."""
    if message.has_error():
        reason = message.error.reason or ""
        known = re.fullmatch(r"gobelin:[a-z_.]{1,64}", reason)  # never a member's free text
        error = reason if known else f"flower:{message.error.code}"
        return Reply(node, error=error, plan=plan, lost=message.error.code in LOST)
    try:
        cosignature = _cosignature(message.content)
        if not set(message.content) - {COSIGNATURE}:  # a node's answer to the farewell
            return Reply(node, plan=plan, cosignature=cosignature)
        header = message.content[HEADER][PAYLOAD]
        wire = {name: _wire(array) for name, array in message.content[DELTA].items()}
        arrays = unbundled(wire)
        moments = _wire(message.content[MOMENTS][MOMENTS]) if MOMENTS in message.content else None
        envelope = _envelope(message.content)
    except (KeyError, AttributeError, TypeError, ValueError):
        return Reply(node, error=MALFORMED, plan=plan)
    header = header if isinstance(header, bytes) else b""
    return Reply(
        node,
        header,
        arrays,
        moments=moments,
        envelope=envelope,
        plan=plan,
        cosignature=cosignature,
    )


def _cosignature(content: RecordDict) -> bytes:
    """A node's cosignature of the ledger's head, if it sent one."""
    record = content.get(COSIGNATURE)
    data = record.get(PAYLOAD) if isinstance(record, ConfigRecord) else None
    return data if isinstance(data, bytes) else b""


def _envelope(content: RecordDict) -> SignedEnvelope:
    """The envelope of a reply as it came; what is none is left to provenance."""
    if ENVELOPE not in content:
        return UNSIGNED
    data, signature = content[ENVELOPE][PAYLOAD], content[ENVELOPE][SIGNATURE]
    if not isinstance(data, bytes) or not isinstance(signature, str) or not data.isascii():
        return UNSIGNED
    return SignedEnvelope(data, signature)


def _wire(array: Array) -> WireArray:
    return WireArray(array.dtype, tuple(array.shape), array.stype, array.data)
