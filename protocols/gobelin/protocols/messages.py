"""The messages of a federation: round plans, the contributions they earn, what becomes of them.

Each is a frozen dataclass with one canonical byte form (JSON, sorted keys, no whitespace), over
which its digest is taken. A field that came later is left out while it says what its absence meant
before, so that what was signed then has the same bytes now. Parameter vectors, and moments of
projections where a federation tests across nodes, travel beside them, bound by digest.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from gobelin.protocols.version import FIRST, PROTOCOL

MAX_BYTES = 1 << 20  # of one message without its tensors
HEADER = "gobelin"  # name of the record that carries a message
BASE = "base"  # name of the record that carries the plan's base vector, where it travels whole
STEPS = "steps"  # name of the record that lists the steps to the base, and first part of theirs
RECEIPTS = "receipts"  # name of the record that lists a node's receipts
DELTA = "delta"  # name of the record that carries the contribution's delta
MOMENTS = "moments"  # name of the record that carries moments, and their key inside it
PAYLOAD = "message"  # key of the canonical bytes inside HEADER
ENCODING = "gobelin.fp32"  # of a tensor's bytes: little-endian fp32, canonical order
RECALL = "query.recall"  # type of a plan without its base: it asks for what is finished, only
NOT_SPOOLED = "gobelin:not_spooled"  # a node's answer to a recall of what it has not finished
PAUSED = "gobelin:paused"  # its answer to a plan while its operator has paused it
NOTICE = "query.notice"  # type of a message that asks for nothing: something to tell operators
SUPERSEDED = "gobelin:superseded"  # its answer to a plan that a newer one has overtaken
BYTES = "uint8"  # dtype of an array of plain bytes, such as moments or a coded step
ENCODING_MOMENTS = "gobelin.moments"  # of canonical bytes of moments
LATE = "late"  # reason: had not arrived when its round was sealed
PENDING = "pending"  # reason in place of a final word: has not arrived, but may still count
METRIC_DISTORTION = "distortion"  # declared metric: share of the delta's power the codec left out
METRIC_SENT_BYTES = "sent_bytes"  # declared metric: bytes of the encoded delta
METRICS_PREMIUM = {  # declared metrics: a node's own federation premium in points, by its measure
    "probe": "premium_probe",
    "identification": "premium_identification",
}
METRIC_PREMIUM_SEEN = "premium_seen"  # and the share of its samples at which it is told
METRICS = frozenset(  # all that a contribution may say of its training in numbers
    {
        *("loss", "prediction", "anti_collapse", "effective_rank"),
        *(METRIC_DISTORTION, METRIC_SENT_BYTES),
        *METRICS_PREMIUM.values(),
        METRIC_PREMIUM_SEEN,
    }
)


def encoding_of(codec: str) -> str:
    """What a segment's bytes are called on the wire when `codec` made them."""
    return f"gobelin.{codec}"


class MalformedMessageError(ValueError):
    """Bytes that are not the message they should be; the text never quotes their content."""


M = TypeVar("M", bound="Message")
_SAID = object()  # no field has this value


def later(default: Any, absent: Any) -> Any:
    """A field that messages have not always had; left out, it says `absent`."""
    return field(default=default, metadata={"absent": absent})


@dataclass(frozen=True)
class Message:
    """Base of the messages: canonical bytes and back."""

    def to_bytes(self) -> bytes:
        """Canonical bytes; raises ValueError when a number is not finite."""
        text = json.dumps(self.plain(), sort_keys=True, separators=(",", ":"), allow_nan=False)
        return text.encode()

    def plain(self) -> dict[str, Any]:
        """The fields and the kind, as JSON has them."""
        values = {name: getattr(self, name) for name in _kinds(type(self))}  # type: ignore[arg-type]
        absent = _absent(type(self))  # type: ignore[arg-type]
        told = {name: value for name, value in values.items() if value != absent.get(name, _SAID)}
        return {"kind": type(self).__name__, **told}

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of the canonical bytes."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    @classmethod
    def from_bytes(cls: type[M], data: bytes) -> M:
        """Parse canonical bytes; raises MalformedMessageError on anything else."""
        if len(data) > MAX_BYTES:
            raise MalformedMessageError(f"{len(data)} bytes, at most {MAX_BYTES} are allowed")
        try:
            values = json.loads(data, parse_constant=_refuse_constant)
        except (ValueError, RecursionError):
            raise MalformedMessageError("not canonical JSON") from None
        message = cls.of_plain(values)
        if message.to_bytes() != data:
            raise MalformedMessageError("not the canonical bytes of what it says")
        return message

    @classmethod
    def of_plain(cls: type[M], values: object) -> M:
        """The message that `plain` gave the values of; raises MalformedMessageError on others."""
        if not isinstance(values, dict) or values.get("kind") != cls.__name__:
            raise MalformedMessageError(f"not a {cls.__name__}")
        kinds = _kinds(cls)  # type: ignore[arg-type]
        absent = _absent(cls)  # type: ignore[arg-type]
        values = {**absent, **values}
        if set(values) != {*kinds, "kind"}:
            raise MalformedMessageError(f"not the fields of a {cls.__name__}")
        return cls(**{name: _typed(name, values[name], kind) for name, kind in kinds.items()})


@dataclass(frozen=True)
class RoundPlan(Message):
    """What one round asks of every node; the base vector it names travels beside it."""

    federation: str
    round: int  # counted from 1
    rounds: int  # of the whole federation; the learning-rate schedule spans them
    recipe: str  # canonical JSON of the recipe
    schema_digest: str
    base_digest: str
    local_steps: int  # H, once the warm-up rounds are over
    seed: int
    deadline_s: float  # seconds from the offer after which contributions are late
    codec: str = "fp32"  # the finest that the delta may be encoded by
    broadcast: str = "fp32"  # what the consensus is broadcast by; nodes keep their base unless fp32
    cross_node: bool = False  # whether nodes are asked for the moments of this base
    moments_digest: str = ""  # of the last base's, pooled, which travel beside the base; if any
    fragments: int = 1  # parts of the model that rounds exchange in turn
    alpha: float = 1.0  # share of the shared value where a node takes a fragment in
    warmup_rounds: int = 0  # of the rounds, the first: of one local step each
    sealed: bool = False  # whether deltas leave their nodes masked only, to be known in sum
    sealed_bits: int = 0  # the grid of a sealed round's deltas is 2^−bits
    sealed_bound: float = 0.0  # largest |δ| of a sealed round; what is beyond is owed
    sealed_norm: float = 0.0  # length to which nodes shorten their deltas; 0 for none
    sealed_threshold: float = 0.0  # share of its nodes that a sealed round needs more than
    protocol: int = later(PROTOCOL, FIRST)  # see version.py
    rollbacks: str = later("", "")  # behind the base: see `shared/ledger/course`


@dataclass(frozen=True)
class Contribution(Message):
    """What a node returns for a plan; the delta it names travels beside it."""

    federation: str
    round: int
    plan_digest: str
    base_digest: str
    delta_digest: str  # over the encoded segments in order; at fp32 that of the delta itself
    local_steps: int
    samples: int
    seconds: float
    metrics: Mapping[str, float] = field(default_factory=dict)  # declared scalars, never a weight
    codec: str = "fp32"  # what the delta is encoded by
    moments_digest: str = ""  # of the base's, on this node's data; empty when it declines
    modality: str = ""  # of this node's data, of which it says what it sends; "" if there is one
    sealed: bool = False  # whether the delta stays here until it is masked; its digest is blinded


@dataclass(frozen=True)
class Step(Message):
    """What the consensus moved by in one round; its encoded segments travel beside it."""

    round: int
    start_digest: str  # of the base it goes on from
    codec: str


@dataclass(frozen=True)
class Receipt(Message):
    """What became of a node's contribution to a round."""

    federation: str
    round: int
    delta_digest: str  # of the contribution; "" when none has arrived
    counted: bool
    reason: str  # why not, as a code; "" when counted
    weight: float  # in the consensus of the round that counted it; 0 when not counted


@dataclass(frozen=True)
class Farewell(Message):
    """What the aggregator says when the last round is sealed: nodes may go."""

    federation: str
    rounds: int
    vector_digest: str


@dataclass(frozen=True)
class Notice(Message):
    """Something the aggregator's operator tells all nodes; they answer by an acknowledgement."""

    federation: str
    round: int  # the last sealed
    what: str  # one line
    since: int  # seconds since 1970
    protocol: int = later(PROTOCOL, FIRST)


@functools.cache
def _absent(message: type[Any]) -> dict[str, Any]:
    """What fields that came later say where they are left out."""
    return {
        one.name: one.metadata["absent"]
        for one in dataclasses.fields(message)
        if "absent" in one.metadata
    }


@functools.cache
def _kinds(message: type[Any]) -> dict[str, Any]:
    return typing.get_type_hints(message)


def _refuse_constant(name: str) -> None:
    raise ValueError(name)


def _typed(name: str, value: Any, kind: Any) -> Any:
    """`value` as `kind`; raises MalformedMessageError when it is of another type."""
    if typing.get_origin(kind) is not None:  # a table
        if not isinstance(value, dict):
            raise MalformedMessageError(f"{name} is not a table")
        of = typing.get_args(kind)[1]
        return {_typed(name, key, str): _typed(name, item, of) for key, item in value.items()}
    if not isinstance(value, kind) or isinstance(value, bool) != (kind is bool):
        raise MalformedMessageError(f"{name} is not a {kind.__name__}")
    if kind is str and not value.isascii():
        raise MalformedMessageError(f"{name} is not ASCII")
    if kind is float and not math.isfinite(value):
        raise MalformedMessageError(f"{name} is not finite")
    if kind is int and not 0 <= value < 1 << 63:
        raise MalformedMessageError(f"{name} is out of range")
    return value
