"""A node acts on nothing that its own aggregator has not signed for it, for now."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
from flwr.app import ConfigRecord, Context, Message, Metadata, RecordDict
from flwr.app.message import make_message

from gobelin.client import link
from gobelin.client.contributor import Contributor
from gobelin.client.envelopes import Envelopes
from gobelin.client.home import NodeHome
from gobelin.client.spool import Spool
from gobelin.protocols.envelope import (
    CONTRIBUTION,
    FAREWELL,
    PLAN,
    RECALLED,
    Envelope,
    SignedEnvelope,
    digest_of_receipts,
)
from gobelin.protocols.messages import (
    HEADER,
    PAYLOAD,
    RECALL,
    RECEIPTS,
    Farewell,
    Receipt,
    RoundPlan,
)
from gobelin.server.courier import Enclosure
from gobelin.server.records import enclosed, message_record
from gobelin.shared.envelope import MICRO, open_envelope, seal
from gobelin.shared.errors import (
    EnvelopeAddressError,
    EnvelopeError,
    EnvelopeExpiredError,
    EnvelopePayloadError,
    EnvelopeReplayedError,
    EnvelopeSignatureError,
)
from gobelin.shared.signing import SigningKey
from tests.client.contributing import BASE, Node, home_at, in_spool, plan

NOW = 2_000_000_000  # Unix time, in seconds
HOUR = 3600 * MICRO
RECEIPT = Receipt("fed", 1, "d" * 64, True, "", 0.5)
Sign = Callable[..., SignedEnvelope]


@pytest.fixture
def home(tmp_path: Path) -> NodeHome:
    return home_at(tmp_path)


@pytest.fixture
def key(home: NodeHome, tmp_path: Path) -> SigningKey:
    return SigningKey.load(tmp_path / "tls" / "signing.key")


@pytest.fixture
def envelopes(home: NodeHome) -> Envelopes:
    return Envelopes(home, lambda: NOW)


@pytest.fixture
def sign(home: NodeHome, key: SigningKey) -> Sign:
    """The aggregator's signature; what it says may be changed."""

    def sign(
        message: RoundPlan | Farewell, purpose: str = PLAN, by: SigningKey = key, **said: object
    ) -> SignedEnvelope:
        told = {"member": "north", "node": home.id, "issued": NOW * MICRO, **said}
        return seal(by, purpose, message, **{"expires": NOW * MICRO + HOUR, **told})

    return sign


def test_what_the_aggregator_signed_is_opened(envelopes: Envelopes, sign: Sign) -> None:
    asked = plan(1, BASE)
    envelope = envelopes.open_plan(asked, sign(asked), [])
    assert (envelope.round, envelope.base_digest) == (1, BASE.digest)
    assert envelope.payload_digest == asked.digest
    told = sign(asked, receipts_digest=digest_of_receipts([RECEIPT.to_bytes()]))
    assert envelopes.open_plan(asked, told, [RECEIPT]).receipts_digest
    assert envelopes.open_recall(asked, sign(asked, RECALLED), [])
    bye = Farewell("fed", 9, "v" * 64)
    assert envelopes.open_farewell(bye, sign(bye, FAREWELL, expires=0), [])  # holds for ever


def test_whatever_else_came_is_refused_by_its_name(envelopes: Envelopes, sign: Sign) -> None:
    asked, other = plan(1, BASE), plan(1, BASE, local_steps=2)
    good = sign(asked)
    for signed, receipts, error in (
        (SignedEnvelope(b"", ""), [], EnvelopeError),
        (SignedEnvelope(good.data[:-1], good.signature), [], EnvelopeError),
        (sign(asked, by=SigningKey.generate()), [], EnvelopeSignatureError),
        (SignedEnvelope(good.data, good.signature[::-1]), [], EnvelopeSignatureError),
        (sign(asked, RECALLED), [], EnvelopeSignatureError),
        (sign(asked, CONTRIBUTION), [], EnvelopeSignatureError),
        (sign(asked, node="0" * 64), [], EnvelopeAddressError),
        (sign(asked, member="south"), [], EnvelopeAddressError),
        (sign(other), [], EnvelopePayloadError),
        (good, [RECEIPT], EnvelopePayloadError),  # receipts that nobody signed
        (sign(asked, expires=NOW * MICRO), [], EnvelopeExpiredError),
        (sign(asked, issued=NOW * MICRO + HOUR), [], EnvelopeExpiredError),
    ):
        with pytest.raises(EnvelopeError) as caught:
            envelopes.open_plan(asked, signed, receipts)
        assert type(caught.value) is error


def test_an_hours_skew_is_named(envelopes: Envelopes, sign: Sign) -> None:
    ahead = sign(plan(1, BASE), issued=NOW * MICRO + HOUR)
    with pytest.raises(EnvelopeExpiredError, match="3600 s ahead of this clock"):
        envelopes.open_plan(plan(1, BASE), ahead, [])
    late = sign(plan(1, BASE), issued=0, expires=NOW * MICRO - HOUR)
    with pytest.raises(EnvelopeExpiredError, match="expired 3600 s ago"):
        envelopes.open_plan(plan(1, BASE), late, [])


def offered(node: Node, envelopes: Envelopes, sign: Sign, number: int, at: int) -> object:
    """Train for a plan that was issued so many seconds after NOW."""
    asked = plan(number, BASE)
    signed = sign(asked, issued=(NOW + at) * MICRO)
    envelope = envelopes.open_plan(asked, signed, [])
    return in_spool(node.contributor, asked, BASE.segments(), envelope=envelope)


def test_an_older_plan_is_a_replay_and_a_fresh_one_of_an_older_round_is_not(
    home: NodeHome, envelopes: Envelopes, sign: Sign
) -> None:
    node = Node(home)
    first = offered(node, envelopes, sign, 2, 10)
    again = offered(Node(home), envelopes, sign, 2, 5)  # what is finished is only said again
    assert first.envelope == again.envelope  # type: ignore[attr-defined]
    with pytest.raises(EnvelopeReplayedError, match="5 s before the last one"):
        offered(Node(home), envelopes, sign, 1, 5)
    assert Spool(home.spool).rounds() == [2]  # and nothing is lost
    offered(node, envelopes, sign, 1, 20)  # the aggregator went back to an earlier base
    assert Spool(home.spool).rounds() == [1]


def test_a_contribution_is_signed_once_and_again_only_when_it_holds_no_longer(
    home: NodeHome, envelopes: Envelopes, sign: Sign
) -> None:
    asked = plan(1, BASE)
    node = Node(home)
    first = offered(node, envelopes, sign, 1, 0)
    public = node.contributor.envelopes._key.public
    made = first.contribution  # type: ignore[attr-defined]
    told = {"member": "north", "node": home.id}
    opened = open_envelope(first.envelope, public, CONTRIBUTION, made, **told)  # type: ignore[attr-defined]
    assert opened.expires == NOW * MICRO + HOUR  # as the plan's: the aggregator's own clock
    recall = Envelope.from_bytes(sign(asked, RECALLED, issued=NOW * MICRO + HOUR // 2).data)
    kept = node.contributor.finished(asked, recall)
    assert kept is not None
    assert kept.envelope == first.envelope  # type: ignore[attr-defined]
    later = NOW * MICRO + 2 * HOUR
    recall = Envelope.from_bytes(sign(asked, RECALLED, issued=later, expires=later + HOUR).data)
    renewed = Contributor(home, lambda _: None).finished(asked, recall)
    assert renewed is not None
    assert renewed.payload.digest == made.delta_digest
    opened = open_envelope(renewed.envelope, public, CONTRIBUTION, made, **told)
    assert opened.expires == later + HOUR
    assert Contributor(home, lambda _: None).finished(asked, recall) == renewed  # and spooled


def asked_of(home: NodeHome, record: RecordDict, kind: str) -> Message:
    """The ClientApp's answer to a message."""
    message = make_message(Metadata(1, "m", 0, 7, "", "", 0.0, 60.0, kind), record)
    return link.app(message, Context(1, 7, {link.HOME_KEY: str(home.folder)}, RecordDict(), {}))


def test_a_forged_plan_trains_nothing_and_tells_a_code(home: NodeHome, sign: Sign) -> None:
    asked = plan(1, BASE)
    forged = sign(asked, by=SigningKey.generate(), expires=1 << 62)
    record = message_record(asked, enclosed(Enclosure(BASE)), [], forged)
    reply = asked_of(home, record, link.TRAIN)
    assert reply.error.reason == "gobelin:envelope.signature"
    assert isinstance(link.take_failure(str(home.folder)), link.NOT_OURS)
    assert not home.spool.exists()
    assert home.pinned("federation") is None


def test_a_farewell_that_nobody_signed_is_not_believed(home: NodeHome, sign: Sign) -> None:
    bye = Farewell("fed", 9, "v" * 64)
    reply = asked_of(home, message_record(bye, {}, [], sign(bye, PLAN)), "query")
    assert reply.error.reason == "gobelin:envelope.signature"
    reply = asked_of(home, message_record(bye, {}, [], sign(bye, FAREWELL)), "query")
    assert not reply.has_error()


def test_a_recall_that_nobody_signed_is_not_answered(home: NodeHome) -> None:
    record = RecordDict(
        {
            HEADER: ConfigRecord({PAYLOAD: plan(1, BASE).to_bytes()}),
            RECEIPTS: ConfigRecord({PAYLOAD: []}),
        }
    )
    assert asked_of(home, record, RECALL).error.reason == "gobelin:not_spooled"


def test_an_envelope_binds_all_it_names(sign: Sign, key: SigningKey, home: NodeHome) -> None:
    """Each field changed and signed anew by the same key is refused but for time and nonce."""
    asked = plan(1, BASE)
    whole = Envelope.from_bytes(sign(asked).data)
    for field in dataclasses.fields(Envelope):
        before = getattr(whole, field.name)
        changed = dataclasses.replace(
            whole, **{field.name: before + 1 if isinstance(before, int) else before + "0"}
        )
        signed = SignedEnvelope(changed.to_bytes(), key.sign(PLAN, changed.to_bytes()))
        told = {"member": "north", "node": home.id}
        if field.name in ("nonce", "issued", "expires"):
            assert open_envelope(signed, key.public, PLAN, asked, **told) == changed
            continue
        with pytest.raises(EnvelopeError):
            open_envelope(signed, key.public, PLAN, asked, **told)
