"""More cases of `hostile_corpus`: forged and replayed envelopes, and uploads that are none."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping
from functools import partial

from flwr.app import ArrayRecord, ConfigRecord, Error, Message, RecordDict
from flwr.proto.message_pb2 import ObjectTree

from bench.hostile_corpus import ROUND, Case, Stage
from bench.hostile_wire import Upload, array_body, content_of, forge, upload_of
from gobelin.protocols.envelope import ENVELOPE, SIGNATURE, SignedEnvelope
from gobelin.protocols.messages import (
    DELTA,
    ENCODING,
    HEADER,
    PAYLOAD,
    Contribution,
)
from gobelin.shared.signing import SigningKey
from gobelin.shared.vector import DTYPE

Spoil = Callable[[RecordDict], object]


# ---------------------------------------------------------------- envelopes and replays


def signed(name: str, code: str, by: Callable[[Stage, Contribution], SignedEnvelope]) -> Case:
    """An honest contribution in an envelope that is not its own."""

    def make(stage: Stage) -> Upload:
        spooled = stage.spooled()
        envelope = by(stage, spooled.contribution)
        return stage.upload(dataclasses.replace(spooled, envelope=envelope))

    return Case(name, code, make)


def altered(stage: Stage, made: Contribution, changes: Mapping[str, object]) -> SignedEnvelope:
    """An envelope that says something else, signed by south all the same."""
    good = json.loads(stage.sign(made).data)
    data = json.dumps({**good, **changes}, sort_keys=True, separators=(",", ":")).encode()
    return SignedEnvelope(data, stage.keys["south"].sign("contribution", data))


def envelopes() -> Iterator[Case]:
    none = SignedEnvelope(b"", "")
    yield signed("no envelope", "envelope", lambda s, m: none)
    yield signed(
        "noise for an envelope", "envelope", lambda s, m: SignedEnvelope(b"\x00{" * 9, "0" * 128)
    )
    yield signed(
        "a field more in the envelope", "envelope", lambda s, m: altered(s, m, {"weight": 9})
    )
    yield signed("a time before all time", "envelope", lambda s, m: altered(s, m, {"issued": -1}))
    yield signed(
        "forged: a key of its own",
        "envelope.signature",
        lambda s, m: s.sign(m, key=SigningKey.generate()),
    )
    yield signed(
        "forged: the aggregator's key",
        "envelope.signature",
        lambda s, m: s.sign(m, key=s.home.signing_key()),
    )
    yield signed(
        "forged: another node's key",
        "envelope.signature",
        lambda s, m: s.sign(m, key=s.keys["north"]),
    )
    yield signed("signed as a plan", "envelope.signature", lambda s, m: s.sign(m, purpose="plan"))
    yield signed(
        "no signature", "envelope.signature", lambda s, m: SignedEnvelope(s.sign(m).data, "")
    )
    yield signed(
        "a signature that is no hex",
        "envelope.signature",
        lambda s, m: SignedEnvelope(s.sign(m).data, "x" * 128),
    )
    yield signed(
        "half a signature",
        "envelope.signature",
        lambda s, m: SignedEnvelope(s.sign(m).data, s.sign(m).signature[:64]),
    )
    yield signed("stale: expired", "envelope.expired", lambda s, m: s.sign(m, expires=10**15))
    yield signed("stale: expired at once", "envelope.expired", lambda s, m: s.sign(m, expires=0))
    yield signed("north's envelope", "envelope.address", lambda s, m: s.sign(m, "north"))
    yield signed(
        "in another member's name", "envelope.address", lambda s, m: s.sign(m, member="north")
    )
    yield signed(
        "in another node's name", "envelope.address", lambda s, m: s.sign(m, node=s.id("north"))
    )
    for key, value in {
        "payload_digest": "0" * 64,
        "round": ROUND - 1,
        "federation": "other",
        "base_digest": "0" * 64,
        "receipts_digest": "0" * 64,
    }.items():
        yield signed(
            f"an envelope of another {key}",
            "envelope.payload",
            partial(altered, changes={key: value}),
        )

    def of_old(stage: Stage) -> Upload:
        old = stage.spooled(plan=stage.plans[1])
        return stage.upload(dataclasses.replace(stage.spooled(), envelope=old.envelope))

    yield Case("stale: the envelope of an old contribution", "envelope.payload", of_old)
    yield Case(
        "replay: one's own of a round long sealed",
        "stale",
        lambda s: s.upload(s.spooled(plan=s.plans[1])),
    )
    yield Case(
        "replay: one's own of the last round",
        "duplicate",
        lambda s: s.upload(s.spooled(plan=s.plans[ROUND - 1])),
    )
    yield Case(
        "replay: north's contribution, whole",
        "envelope.address",
        lambda s: s.upload(s.spooled("north")),
    )
    yield Case(
        "replay: what has been counted",
        "duplicate",
        lambda s: s.upload(s.spooled("north")),
        sender="north",
    )
    yield Case(
        "a second contribution",
        "duplicate",
        lambda s: s.upload(s.spooled("north", samples=8)),
        sender="north",
    )
    yield Case(
        "a stranger", "not_on_roster", lambda s: s.upload(s.spooled("stranger")), sender="stranger"
    )

    def text(stage: Stage) -> Upload:
        signed_ = stage.spooled().envelope
        told = ConfigRecord({PAYLOAD: signed_.data.decode(), SIGNATURE: signed_.signature})
        return stage.upload(stage.spooled(), lambda r: r.update({ENVELOPE: told}))

    yield Case("an envelope as text", "envelope", text)


# ---------------------------------------------------------------- the wire


def built(name: str, code: str, change: Callable[[Stage, Upload], Upload]) -> Case:
    """An upload that no Flower client makes."""
    return Case(name, code, lambda s: change(s, s.upload(s.spooled())))


def of_kind(upload: Upload, kind: bytes) -> tuple[str, bytes]:
    """Id and content of the first object of a kind."""
    return next((k, c) for k, c in sorted(upload.objects.items()) if c.startswith(kind + b" "))


def repeated(stage: Stage, upload: Upload) -> Upload:
    """An array that names its one chunk so often that it would be terabytes."""
    _, chunk = of_kind(upload, b"ArrayChunk")
    _, content = of_kind(upload, b"Array")
    child = content.split(b" ")[1].decode()
    body = array_body([0] * 100_000, DTYPE, [len(chunk)], ENCODING)
    return forge(upload, {"Array": content_of("Array", [child], body)})


def body_of(kind: str, body: bytes) -> Callable[[Stage, Upload], Upload]:
    """All objects of a kind with this body instead, and no children."""
    return lambda stage, upload: forge(upload, {kind: content_of(kind, [], body)})


def heavy(size: int) -> Callable[[Stage, Upload], Upload]:
    """One object is so many bytes."""

    def change(stage: Stage, upload: Upload) -> Upload:
        key, _ = of_kind(upload, b"ArrayChunk")
        del upload.objects[key]
        return dataclasses.replace(upload, huge={key: size})

    return change


def many(stage: Stage, upload: Upload) -> Upload:
    """A tree of ten thousand parts."""
    more = [ObjectTree(object_id=f"{i:064x}") for i in range(10_000)]
    tree = ObjectTree(object_id=upload.tree.object_id, children=[*upload.tree.children, *more])
    return dataclasses.replace(upload, tree=tree)


def fat(stage: Stage, upload: Upload) -> Upload:
    """Parts that are each allowed and together are not."""
    spare = {f"{i:064x}": bytes(5 * 2**20) for i in range(3)}
    more = [ObjectTree(object_id=key) for key in spare]
    tree = ObjectTree(object_id=upload.tree.object_id, children=[*more, *upload.tree.children])
    return Upload(upload.envelope, tree, {**upload.objects, **spare})


def own_child(stage: Stage, upload: Upload) -> Upload:
    """A record that contains itself."""
    key, content = of_kind(upload, b"RecordDict")
    _, body = content.split(b"\0", 1)
    upload.objects[key] = content_of("RecordDict", [key], body)
    return upload


def record(name: str, code: str, spoil: Spoil) -> Case:
    """The record changed at the top."""
    return Case(name, code, lambda stage: stage.upload(stage.spooled(), spoil))


def error(reason: str, number: int = 100) -> Callable[[Stage], Upload]:
    """An error in place of a contribution."""

    def make(stage: Stage) -> Upload:
        asked = stage.wire.sent[stage._last]
        return upload_of(Message(Error(number, reason), reply_to=asked))

    return make


def wire() -> Iterator[Case]:
    yield built("10,000 parts", "oversize", many)
    yield built("more than the schema in allowed parts", "oversize", fat)
    yield built("one part of 1 GiB", "oversize", heavy(2**30))
    yield built("one part of 8 GiB", "oversize", heavy(2**33))
    yield built("a chunk repeated 100,000 times", "oversize", repeated)
    yield built("an array that is no JSON", "malformed", body_of("Array", b"{"))
    yield built("an array without words", "malformed", body_of("Array", b"{}"))
    yield built(
        "a chunk that is not there",
        "malformed",
        body_of("Array", array_body([7], DTYPE, [1], ENCODING)),
    )
    yield built("a record that is no protobuf", "malformed", body_of("ConfigRecord", b"\xff" * 99))
    yield built("records that are no JSON", "malformed", body_of("ArrayRecord", b"\xff" * 99))
    yield built("a message that is none", "malformed", body_of("Message", b"\xff" * 99))
    yield built(
        "an object of no known type",
        "malformed",
        lambda s, u: forge(u, {"ConfigRecord": content_of("os.system", [], b"id")}),
    )
    yield built(
        "an object without a head", "malformed", lambda s, u: forge(u, {"ConfigRecord": b"x" * 9})
    )
    yield built("a record that contains itself", "malformed", own_child)
    yield record("no delta", "malformed", lambda r: r.pop(DELTA))
    yield record("no header", "malformed", lambda r: r.pop(HEADER))
    yield record("no envelope record", "envelope", lambda r: r.pop(ENVELOPE))
    yield record(
        "a config for a delta", "malformed", lambda r: r.update({DELTA: ConfigRecord({"a": 1})})
    )
    yield record("an array for a header", "malformed", lambda r: r.update({HEADER: ArrayRecord()}))
    yield record("nothing at all", "malformed", lambda r: r.clear())
    yield Case(
        "an error that quotes a path", "node_error", error("/home/x/patients.csv: no such file")
    )
    yield Case("an error of 100 kB", "node_error", error("gobelin:" + "a" * 10**5))
