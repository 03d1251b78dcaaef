"""Our service over real TLS: who gets in, what they may do there, and what is turned away early."""

from __future__ import annotations

import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from gobelin.client.egress_ledger import EgressLedger
from gobelin.client.home import NodeHome
from gobelin.client.join import Joining, enrolment_request
from gobelin.client.membership import Membership, known_roster
from gobelin.client.service import PROBE_BYTES, PROBES, Connection, fetch_authority
from gobelin.client.terms import Terms
from gobelin.protocols import federation_pb2 as pb
from gobelin.protocols.enrolment import REVOKE
from gobelin.server.founding import Charter, found
from gobelin.server.home import AggregatorHome
from gobelin.server.places import Places
from gobelin.server.service import FAILURES, MAX_REQUEST_BYTES, Throttle, serve
from gobelin.server.supervisor import free_port
from gobelin.shared.certificates import certify_node
from gobelin.shared.certificates import invited as shown
from gobelin.shared.errors import (
    EnrolmentError,
    InviteError,
    RosterError,
    StateError,
    UnreachableError,
)
from gobelin.shared.invite import Invite
from gobelin.shared.keys import certificate_builder, load_private_key, make_key, private_pem
from tests.office import found_places, invited, join, listen_on, serving, until


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Places]:
    made = found_places(tmp_path_factory.mktemp("office") / "home")
    with serving(made):
        yield made


def test_it_starts_without_tensors() -> None:
    look = "import sys, gobelin.server.service; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", look], check=False).returncode == 0


def as_invited(places: Places, invite: Invite) -> Connection:
    key, certificate = private_pem(invite.key), shown(invite.key, invite.id)
    until(lambda: reachable(places))
    told = ledger(places)
    ca = fetch_authority(invite.service, invite.ca_pin, key, certificate, told).ca_pem
    return Connection(invite.service, ca, key, certificate, told)


def ledger(places: Places) -> EgressLedger:
    """Of whoever calls in these tests."""
    return EgressLedger(places.folder / "egress.jsonl")


def reachable(places: Places) -> bool:
    network = places.front().network
    with socket.socket() as probe:
        return probe.connect_ex((network.host, network.service_port)) == 0


def address(places: Places) -> str:
    network = places.front().network
    return f"{network.host}:{network.service_port}"


def test_the_service_listens_where_it_is_told_and_names_what_nodes_call(tmp_path: Path) -> None:
    found(tmp_path / "home", Charter("fed", "toy", "fed.invalid:9092"))  # a name of no machine
    made, heard, stop = Places(tmp_path / "home"), list[str](), threading.Event()
    listen_on(made, "127.0.0.1", service_port=(port := free_port()))
    serve_in = threading.Thread(target=serve, args=(made, stop, heard.append), daemon=True)
    serve_in.start()
    until(lambda: heard)
    with socket.create_connection(("127.0.0.1", port), timeout=10):
        assert heard == [f"fed.invalid:{port}"]
    stop.set()
    serve_in.join(30)
    assert invited(made).service == f"fed.invalid:{port}"


def test_the_holder_of_an_invite_may_enrol_and_nothing_else(places: Places) -> None:
    with as_invited(places, invited(places, "m-1")) as service:
        assert service.ask("Authority", pb.AuthorityRequest()).ca_pem == places.ca_file.read_bytes()
        for method, request in (
            ("Roster", pb.RosterRequest()),
            ("Renew", pb.RenewRequest()),
            ("Leave", pb.LeaveRequest()),
        ):
            with pytest.raises(EnrolmentError, match="an invite may only enrol"):
                service.ask(method, request)


def test_without_a_key_that_is_known_nobody_is_heard(places: Places) -> None:
    invite = invited(places, "m-2")
    key, certificate = private_pem(invite.key), shown(invite.key, invite.id)
    until(lambda: reachable(places))
    other = make_key()
    stranger = shown(invite.key, "0" * 16)
    with pytest.raises(InviteError, match="does not know this invite"):
        fetch_authority(invite.service, invite.ca_pin, key, stranger, ledger(places))
    forged = certify_node(places.ca(), other, other.public_key(), "north")  # not by the CA's key
    ca = places.ca_file.read_bytes()
    with (
        Connection(address(places), ca, private_pem(other), forged, ledger(places)) as service,
        pytest.raises(UnreachableError),
    ):
        service.ask("Authority", pb.AuthorityRequest())
    assert fetch_authority(invite.service, invite.ca_pin, key, certificate, ledger(places))


def test_a_node_is_let_in_by_a_certificate_of_the_ca_alone(tmp_path: Path, places: Places) -> None:
    """Who has an invite can sign certificates under it, for any key; they open no node's door."""
    invite = invited(places, "m-3")
    home = join(tmp_path / "node", invite).home
    key = load_private_key(home.key_file)
    mine = under_invite(invite, key.public_key())
    ca = home.ca_file.read_bytes()
    with (
        Connection(address(places), ca, private_pem(key), mine, ledger(places)) as service,
        pytest.raises(EnrolmentError, match="an invite may only enrol"),
    ):
        service.ask("Renew", pb.RenewRequest())
    with Membership(home).connected() as service:
        assert service.ask("Renew", pb.RenewRequest()).certificate


def under_invite(invite: Invite, key: ec.EllipticCurvePublicKey) -> bytes:
    """A certificate for a key, signed by the holder of an invite."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"invite {invite.id}")])
    builder = certificate_builder(x509.Name([]), name, key, 1)
    return builder.sign(invite.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def test_tls_before_1_3_is_refused(places: Places) -> None:
    until(lambda: reachable(places))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    network = places.front().network
    with (
        socket.create_connection((network.host, network.service_port), timeout=10) as raw,
        pytest.raises((ssl.SSLError, ConnectionError)),
    ):
        context.wrap_socket(raw)


def test_a_large_request_is_refused_by_its_size(places: Places) -> None:
    with as_invited(places, invited(places, "m-4")) as service:
        big = pb.EnrolRequest(enrolment=b"x" * (MAX_REQUEST_BYTES + 1))
        with pytest.raises(EnrolmentError, match="larger than max"):
            service.ask("Enrol", big)


def test_refused_enrolments_are_counted_and_slowed_down(tmp_path: Path, places: Places) -> None:
    invite = invited(places, "m-5")
    with as_invited(places, invite) as service:
        for _ in range(FAILURES):
            assert service.ask("Enrol", pb.EnrolRequest()).reason == "malformed"
        with pytest.raises(EnrolmentError, match="try again in"):
            service.ask("Enrol", pb.EnrolRequest())


def test_a_throttle_forgets_after_a_minute() -> None:
    now = [0.0]
    throttle = Throttle(lambda: now[0])
    for _ in range(FAILURES):
        assert throttle.wait_s("a") == 0
        throttle.note("a")
    assert throttle.wait_s("a") == 60
    assert throttle.wait_s("b") == 0
    now[0] = 59.0
    assert throttle.wait_s("a") == 1
    now[0] = 60.0
    assert throttle.wait_s("a") == 0


def test_revoking_takes_effect_at_the_next_call_of_an_open_connection(
    tmp_path: Path, places: Places
) -> None:
    membership = Membership(join(tmp_path / "node", invited(places, "m-6")).home)
    with membership.connected() as service:
        assert service.ask("Renew", pb.RenewRequest()).certificate
        with places.book.change(places.signing_key_file) as change:
            change.make(REVOKE, change.node("m-6"))
        with pytest.raises(EnrolmentError, match="not on the roster"):
            service.ask("Renew", pb.RenewRequest())


def test_an_enrolment_is_told_the_same_over_the_wire(tmp_path: Path, places: Places) -> None:
    invite = invited(places, "m-7", pre_approved=False)
    home = NodeHome(tmp_path)
    joining = Joining(home, invite, "", lambda line: None)
    joining._make_keys()
    joining._note()
    with as_invited(places, invite) as service:
        for _ in range(2):
            reply = service.ask("Enrol", enrolment_request(home))
            assert (reply.state, reply.words) == (pb.WAITING, joining.words)
            assert not reply.certificate


def test_it_says_when_it_is_ready(tmp_path: Path) -> None:
    made, stop, told = found_places(tmp_path / "home"), threading.Event(), list[str]()
    stop.set()
    serve(made, stop, told.append)
    assert told == [address(made)]


def test_an_unknown_request_says_so(places: Places) -> None:
    with as_invited(places, invited(places, "m-8")) as service:
        ask = service._channel.unary_unary("/gobelin.v1.Federation/Crown")
        with pytest.raises(grpc.RpcError) as caught:
            ask(b"", timeout=10)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_a_node_knows_the_roster_it_saw_last_while_the_service_is_away(
    tmp_path: Path, places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = join(tmp_path / "node", invited(places, "m-roster")).home
    now = known_roster(home)
    assert now is not None
    assert home.id in now.current

    def away(self: Membership) -> None:
        raise UnreachableError("nobody answers")

    monkeypatch.setattr(Membership, "roster", away)
    kept = known_roster(home)
    assert kept is not None
    assert kept.head == now.head
    home.roster_file.write_bytes(home.roster_file.read_bytes().replace(b"m-roster", b"m-other"))
    with pytest.raises(RosterError):
        known_roster(home)


def test_a_node_goes_on_with_a_federation_that_was_taken_over(
    tmp_path: Path, places: Places
) -> None:
    """The new aggregator has keys of its own: its operator hands out ca.pem, and an invite."""
    home = join(tmp_path / "node", invited(places, "m-moved")).home
    Membership(home).roster()
    before = {file.name: file.read_bytes() for file in home.folder.iterdir() if file.is_file()}
    successor = found_places(tmp_path / "successor")
    with serving(successor):
        invite = invited(successor, "m-moved")
        until(lambda: reachable(successor))
        with pytest.raises(StateError, match="was taken over, put the new ca"):
            join(home.folder, invite)
        after = {file.name: file.read_bytes() for file in home.folder.iterdir() if file.is_file()}
        assert after == before  # a stranger's invite changes nothing
        home.ca_file.write_bytes(successor.ca_file.read_bytes())
        join(home.folder, invite)
        log = Membership(home).roster()
    assert [record.member for record in log.current.values()] == ["m-moved"]
    assert home.pinned("federation_digest") == invite.federation_digest


def test_a_probe_times_bytes_that_have_arrived(places: Places) -> None:
    with as_invited(places, invited(places, "prober")) as service:
        found = service.probe(60.0)
    assert found.sent_bytes == PROBES * PROBE_BYTES
    assert found.bytes_per_second > 0


def test_what_is_to_be_seldom_is_counted_by_caller() -> None:
    now = [0.0]
    throttle = Throttle(lambda: now[0], most=2, window_s=10.0)
    for _ in range(2):
        assert throttle.wait_s("north") == 0
        throttle.note("north")
    assert throttle.wait_s("north") == 10.0
    assert throttle.wait_s("south") == 0
    now[0] = 10.0
    assert throttle.wait_s("north") == 0


def test_whoever_holds_an_invite_is_told_what_is_trained(places: Places) -> None:
    with as_invited(places, invited(places, "reader")) as service:
        told = service.ask("Authority", pb.AuthorityRequest())
    terms = Terms.of_answer(told.recipe, told.terms)
    rounds = AggregatorHome(places.folder).settings().rounds
    assert (terms.recipe.name, terms.local_steps, terms.deadline_s) == (
        "toy",
        rounds.local_steps,
        rounds.deadline_s,
    )
