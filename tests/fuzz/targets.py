"""What is fuzzed: each parser of bytes that come from elsewhere, with examples to spoil.

A target takes bytes and may refuse them by a typed error. Anything else it raises is a crash.
"""

from __future__ import annotations

import base64
import dataclasses
import functools
import hashlib
import random
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import Message, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.task_identity import TaskIdentity

from gobelin.client.egress_ledger import Departure, EgressLedger
from gobelin.client.home import NodeSettings
from gobelin.client.plan import parse_recipe
from gobelin.client.records import contribution_record
from gobelin.client.site_policy import SitePolicy
from gobelin.client.spool import Spooled
from gobelin.protocols.envelope import CONTRIBUTION, Envelope, SignedEnvelope
from gobelin.protocols.ledger import ReleaseStatement
from gobelin.protocols.messages import (
    Farewell,
    MalformedMessageError,
    Receipt,
    RoundPlan,
    Step,
)
from gobelin.protocols.messages import Message as OurMessage
from gobelin.server.admission import Refusal, admit
from gobelin.server.courier import Reply
from gobelin.server.home import FederationSettings
from gobelin.server.journal import Journal
from gobelin.server.limits import limit_of
from gobelin.server.provenance import trace
from gobelin.server.roster import NodeEntry
from gobelin.server.round_events import Asked, Seat
from gobelin.server.uploads import Malformed, TooLarge, inflate
from gobelin.shared.checkpoint import read_checkpoint, write_checkpoint
from gobelin.shared.codec import CODECS, Payload, codec_named, compress
from gobelin.shared.envelope import NEVER, open_envelope, seal
from gobelin.shared.errors import GobelinError
from gobelin.shared.files import write_atomic
from gobelin.shared.invite import Invite
from gobelin.shared.ledger import Entry, Tree, TreeHead, origin_of, sign_head
from gobelin.shared.model import build_jepa
from gobelin.shared.objective import Moments
from gobelin.shared.objective.moments import digest_of
from gobelin.shared.recipe import Recipe, load_recipe
from gobelin.shared.release import ReleaseKey, card, seal_release, verify_release
from gobelin.shared.settings import Settings, parse_settings, to_toml
from gobelin.shared.vector import ParameterSchema, ParameterVector
from tests.answers import contribution, wired
from tests.keys import node_pub, signing_key
from tests.ledgers import FEDERATION, aggregator, entry_of_round

REFUSALS = (GobelinError, MalformedMessageError, Malformed, TooLarge)
SCHEMA = ParameterSchema.of_shapes({"a": (16, 16), "b": (7,)})
DELTA = ParameterVector(SCHEMA, torch.linspace(-1, 1, SCHEMA.size))
PLAN = RoundPlan("fed", 2, 9, "{}", SCHEMA.digest, "b" * 64, 5, 7, 60.0, cross_node=True)
MADE = contribution(PLAN, DELTA.digest)
KEY, NODE = signing_key(1), "0" * 64
SEAT = Seat("north", "north", KEY.public)
ENVELOPE = dataclasses.replace(
    Envelope.from_bytes(
        seal(KEY, CONTRIBUTION, MADE, member="north", node=NODE, issued=1, expires=NEVER).data
    ),
    nonce="0" * 32,  # the same inputs for the same seeds
).to_bytes()
SIGNED = SignedEnvelope(ENVELOPE, KEY.sign(CONTRIBUTION, ENVELOPE))
VECTOR = ParameterVector.zeros(ParameterSchema.of(build_jepa(load_recipe("toy"), 0)))
WORDS = (b'"', b"{", b"}", b"[", b",", b"\0", b"\xff", b"-", b"1e999", b"nan", b"\n", b"=", b"..")
Parse = Callable[[bytes], object]


@dataclass(frozen=True)
class Target:
    """A parser and examples of what it takes."""

    name: str
    parse: Parse
    examples: Sequence[bytes]

    def survives(self, data: bytes) -> None:
        """Parse bytes; a typed refusal is as good as an answer."""
        try:
            self.parse(data)
        except REFUSALS:
            return


def spoil(example: bytes, seed: int) -> bytes:
    """An example with one to eight edits drawn from a seed, or noise in its stead."""
    draw = random.Random(seed)
    if draw.random() < 0.05:
        return draw.randbytes(draw.randrange(200))
    data = bytearray(example)
    for _ in range(draw.randint(1, 8)):
        at = draw.randrange(len(data) + 1)
        end = min(len(data), at + draw.choice((1, 1, 2, 8, 40)))
        match draw.randrange(6):
            case 0 if at < len(data):
                data[at] ^= 1 << draw.randrange(8)
            case 1:
                data[at:end] = b""
            case 2:
                data[at:at] = draw.choice(WORDS)
            case 3:
                data[at:at] = data[at:end] * draw.choice((1, 3, 30))
            case 4:
                data[at:end] = draw.randbytes(end - at)
            case _:
                del data[at:]
    return bytes(data)


# ---------------------------------------------------------------- envelope and messages


def opened(data: bytes) -> None:
    """Nothing but the very bytes that were signed opens."""
    envelope = open_envelope(
        SignedEnvelope(data, SIGNED.signature),
        KEY.public,
        CONTRIBUTION,
        MADE,
        member="north",
        node=NODE,
    )
    assert (data, envelope.payload_digest) == (SIGNED.data, MADE.digest)


def signature(data: bytes) -> None:
    """Nothing but the very signature holds."""
    text = data.decode("latin-1")
    found = trace(NODE, SEAT, MADE.to_bytes(), SignedEnvelope(SIGNED.data, text), 1)
    assert (found is None) == (text == SIGNED.signature)


def message(kind: type[OurMessage]) -> Parse:
    """What is parsed has the very bytes it was parsed from."""

    def parse(data: bytes) -> None:
        assert kind.from_bytes(data).to_bytes() == data

    return parse


def admitted(data: bytes) -> None:
    """A header may be anything; only a contribution to this plan is admitted."""
    found = admit(PLAN, {"": SCHEMA}, 3, data, wired(DELTA.segments()), batch=16)
    if not isinstance(found, Refusal):
        assert found.contribution.plan_digest == PLAN.digest


# ---------------------------------------------------------------- payloads


def decoded(codec: str) -> Parse:
    """Whatever a payload decodes to is finite."""

    def parse(data: bytes) -> None:
        vector = Payload(SCHEMA, codec, {"000000000000": data}).decode()
        assert bool(torch.isfinite(vector.values).all())

    return parse


def moments(data: bytes) -> None:
    Moments.from_bytes(data, 3)


def example_of(codec: str) -> bytes:
    return codec_named(codec).encode(DELTA.values)


# ---------------------------------------------------------------- files and objects


@functools.cache
def scratch() -> Path:
    """A folder for what is parsed from files."""
    return Path(tempfile.mkdtemp(prefix="fuzz-"))


def journalled(data: bytes) -> None:
    """A damaged reply in the journal is none: safetensors' header, and what it says."""
    journal, asked = Journal(scratch()), Asked(NODE, 2)
    (scratch() / f"{asked}.reply").write_bytes(data)
    found = journal.reply(asked)
    assert found is None or isinstance(found, Reply)


def reply_file() -> bytes:
    asked = Asked(NODE, 2)
    reply = Reply(NODE, MADE.to_bytes(), wired(DELTA.segments()), envelope=SIGNED)
    Journal(scratch()).keep(asked, reply)
    return (scratch() / f"{asked}.reply").read_bytes()


def ledger(data: bytes) -> None:
    """The egress ledger is whole, but for its end, or says that it is not."""
    file = scratch() / "egress.jsonl"
    file.write_bytes(data)
    EgressLedger(file).records()


def ledger_file() -> bytes:
    file = scratch() / "egress.jsonl"
    book = EgressLedger(file, lambda: 1.0)
    for number in range(3):
        book.leaving(Departure("contribution", number, "int4", "d" * 64, 100))
    return file.read_bytes()


@functools.cache
def objects() -> tuple[str, dict[str, bytes]]:
    """A contribution as Flower's objects."""
    TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1
    asked = Message(RecordDict(), 1, "train")
    asked.metadata.__dict__["_message_id"] = "1"
    seen = Moments.of(torch.randn(20, 3, generator=torch.Generator().manual_seed(0))).to_bytes()
    payload = compress("fp32", DELTA, None).payload
    made = contribution(PLAN, payload.digest, moments_digest=digest_of(seen))
    reply = Message(contribution_record(Spooled(made, payload, seen, SIGNED)), reply_to=asked)
    reply.metadata.__dict__["_message_id"] = reply.object_id
    return reply.object_id, {k: o.deflate() for k, o in get_all_nested_objects(reply).items()}


def inflated(place: int) -> Parse:
    """One object of a reply is another than it should be."""

    def parse(data: bytes) -> None:
        own, contents = objects()
        key = sorted(contents, key=lambda each: contents[each])[place]
        inflate(own, {**contents, key: data}, limit_of(SCHEMA, "fp32", 3))

    return parse


def object_examples() -> list[bytes]:
    return sorted(objects()[1].values())


# ---------------------------------------------------------------- invites and releases

INVITE = Invite(
    "fed", "north", "aggregator:9093", "aggregator:9092", "a" * 64, "b" * 64, bytes(20), 1 << 40
)


def invited(data: bytes) -> None:
    """A text is the one invite that its checksum is of, or none."""
    text = data.decode("utf-8", "replace")
    assert Invite.parse(text).text() == "".join(text.split())


def invite_body(data: bytes) -> None:
    """Whoever makes invites may write what they like behind the checksum: it parses, or is none."""
    whole = Invite.parse(wrapped(data))
    assert (len(whole.secret), len(whole.ca_pin)) == (20, 64)
    assert whole.id  # its key is one


def wrapped(body: bytes) -> str:
    """An invite's text around any body, its checksum right."""
    check = hashlib.sha256(b"gobelin:v1:invite\0" + body).digest()[:4]
    return "gobelin1-" + base64.urlsafe_b64encode(body + check).decode().rstrip("=")


def unwrapped(invite: Invite) -> bytes:
    text = invite.text().removeprefix("gobelin1-")
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))[:-4]


@functools.cache
def release_folder() -> Path:
    """A small release, whole."""
    folder = Path(tempfile.mkdtemp(prefix="fuzz-release-")) / "release-00001"
    told = dataclasses.replace(entry_of_round(0, 0).record, vector_digest=VECTOR.digest)
    leaf = Entry(told, ())
    tree = Tree([leaf.leaf])
    head = sign_head(aggregator(), TreeHead(origin_of(FEDERATION), 1, tree.root()))
    release = ReleaseKey(ec.derive_private_key(7, ec.SECP256R1()))
    statement = ReleaseStatement(FEDERATION, 0, VECTOR.digest, 1, 1 << 40, release.public)
    write_checkpoint(folder, load_recipe("toy"), VECTOR, {"round": 0})
    write_atomic(folder / card.FILE, b"A card.")
    keys = (aggregator(), release)
    seal_release(folder, "fed", statement, leaf.proof(tree, 1), head, keys)
    return folder


def released(name: str) -> Parse:
    """A release with any byte of a file changed is refused."""

    def parse(data: bytes) -> None:
        file = release_folder() / name
        whole = file.read_bytes()
        try:
            file.write_bytes(data)
            verify_release(release_folder(), aggregator().public)
            assert data == whole
        finally:
            file.write_bytes(whole)

    return parse


# ---------------------------------------------------------------- settings and keys


def checkpoint(name: str) -> Parse:
    """A checkpoint with one of its files changed is refused, unless it says the same."""

    def parse(data: bytes) -> None:
        folder = scratch() / "checkpoint"
        file = folder / name
        whole = file.read_bytes()
        try:
            file.write_bytes(data)
            found = read_checkpoint(folder)
            assert found.vector.digest == VECTOR.digest
        finally:
            file.write_bytes(whole)

    return parse


def checkpoint_file(name: str) -> bytes:
    folder = scratch() / "checkpoint"
    if not folder.exists():
        write_checkpoint(folder, load_recipe("toy"), VECTOR, {"round": 3})
    return (folder / name).read_bytes()


def settings(kind: type[Settings]) -> Parse:
    return lambda data: parse_settings(kind, data.decode("utf-8", "replace"), "a file")


def key(data: bytes) -> None:
    """Both keys of a node.pub."""
    NodeEntry.of("north", "north", data, "node.pub")


@functools.cache
def targets() -> list[Target]:
    """All that is fuzzed."""
    plans: Iterable[OurMessage] = (
        *(PLAN, MADE, Farewell("fed", 9, "v" * 64), Step(3, "b" * 64, "int8")),
        ReleaseStatement("fed", 3, "v" * 64, 1, 2, "PEM"),
        *(Receipt("fed", 3, "d" * 64, True, "", 0.25), Envelope.from_bytes(SIGNED.data)),
    )
    recipe = load_recipe("toy")
    node = NodeSettings.model_validate(
        {"member": "m", "node": "n", "aggregator": "h:1", "data": {"path": "/d"}}
    )
    seen = Moments.of(torch.randn(20, 3, generator=torch.Generator().manual_seed(0))).to_bytes()
    return [
        Target("envelope", opened, [SIGNED.data]),
        Target("signature", signature, [SIGNED.signature.encode()]),
        *(Target(type(m).__name__, message(type(m)), [m.to_bytes()]) for m in plans),
        Target("admission", admitted, [MADE.to_bytes()]),
        *(Target(codec, decoded(codec), [example_of(codec)]) for codec in CODECS),
        Target("moments", moments, [seen]),
        Target("journal", journalled, [reply_file()]),
        *(
            Target(name, checkpoint(name), [checkpoint_file(name)])
            for name in ("manifest.json", "model.safetensors")
        ),
        Target("egress ledger", ledger, [ledger_file()]),
        *(Target(f"object {i}", inflated(i), [data]) for i, data in enumerate(object_examples())),
        Target(
            "federation.toml", settings(FederationSettings), [b'name = "f"\n[rounds]\nrounds = 3\n']
        ),
        Target("node.toml", settings(NodeSettings), [to_toml(node).encode()]),
        Target(
            "policy.toml", settings(SitePolicy), [b'hours = "20:00-06:00"\ncodecs = ["int4"]\n']
        ),
        Target("recipe.toml", settings(Recipe), [to_toml(recipe).encode()]),
        Target(
            "recipe",
            lambda data: parse_recipe(data.decode("latin-1")),
            [recipe.canonical().encode()],
        ),
        Target("node.pub", key, [node_pub(3)]),
        Target("invite", invited, [INVITE.text().encode()]),
        Target("invite body", invite_body, [unwrapped(INVITE)]),
        *(
            Target(f"release: {name}", released(name), [(release_folder() / name).read_bytes()])
            for name in ("release.json", "model.sig", "manifest.json")
        ),
    ]
