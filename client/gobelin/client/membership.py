"""What an enrolled node keeps up: its certificate, its view of the roster, and how it leaves."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from cryptography import x509

from gobelin.client.egress_ledger import EgressLedger
from gobelin.client.home import NodeHome
from gobelin.client.join import enrolment_request, require_admitted
from gobelin.client.service import Connection, Patience, Say
from gobelin.client.spool_entry import entries_in
from gobelin.protocols import federation_pb2 as pb
from gobelin.protocols.enrolment import (
    LEAVE,
    PURPOSE_DEPARTURE,
    PURPOSE_EXIT,
    Departure,
    Exit,
    digest_of_receipts,
)
from gobelin.protocols.messages import MalformedMessageError, Receipt
from gobelin.shared.certificates import invited, renewal_time
from gobelin.shared.errors import (
    GobelinError,
    RosterError,
    SignatureError,
    StateError,
    UnreachableError,
)
from gobelin.shared.files import folder_atomic, read_json, write_atomic, write_json
from gobelin.shared.keys import fingerprint, load_private_key, private_pem
from gobelin.shared.roster_log import (
    REMEDY,
    RosterLog,
    Signed,
    id_of,
    line_of,
    lines_of,
    require_same_history,
)
from gobelin.shared.signing import SigningKey, verify

LOOK_EVERY_S = 600.0  # whether the certificate is to be renewed
NOTHING_SEEN: Mapping[str, Any] = {"length": 0, "head": ""}  # of the roster log
JITTER = 0.1  # of that: nodes that joined together do not ask together


class Membership:
    """A node that has joined by an invite."""

    def __init__(self, home: NodeHome) -> None:
        if not home.enrolment_file.exists() or not home.certificate_file.exists():
            raise StateError(
                f"{home.folder} has not joined by an invite", "run `gobelin node join` with one"
            )
        self._home = home
        self._facts = read_json(home.enrolment_file)

    @property
    def certificate(self) -> x509.Certificate:
        """The node's certificate as it is now."""
        return x509.load_pem_x509_certificate(self._home.certificate_file.read_bytes())

    @contextmanager
    def connected(self) -> Iterator[Connection]:
        """A connection as this node."""
        home = self._home
        key, certificate = home.key_file.read_bytes(), home.certificate_file.read_bytes()
        ca = home.ca_file.read_bytes()
        ledger = EgressLedger(home.egress_file)
        proxy = home.settings().network.proxy
        with Connection(self._facts["service"], ca, key, certificate, ledger, proxy) as service:
            yield service

    # ------------------------------------------------------------ the certificate

    def renew_if_due(self, now: float | None = None) -> bool:
        """Renew the certificate at two thirds of its life; whether it was.

        One that has ended while the node was away is asked for as at the first time, by the key of
        the invite this node was bound to.
        """
        now = time.time() if now is None else now
        if now < renewal_time(self.certificate):
            return False
        if now < self.certificate.not_valid_after_utc.timestamp():
            with self.connected() as service:
                pem = service.ask("Renew", pb.RenewRequest()).certificate
        else:
            pem = self._enrol_again()
        certificate = x509.load_pem_x509_certificate(pem)
        mine = load_private_key(self._home.key_file).public_key()
        if certificate.public_key() != mine:
            raise RosterError("the new certificate is of another key than this node's", REMEDY)
        write_atomic(self._home.certificate_file, pem)
        return True

    def _enrol_again(self) -> bytes:
        home, key = self._home, load_private_key(self._home.invite_file)
        shown = invited(key, self._facts["invite"])
        ca = home.ca_file.read_bytes()
        ledger = EgressLedger(home.egress_file)
        address, proxy = self._facts["service"], home.settings().network.proxy
        with Connection(address, ca, private_pem(key), shown, ledger, proxy) as service:
            reply = service.ask("Enrol", enrolment_request(home))
        require_admitted(reply)
        certificate: bytes = reply.certificate
        return certificate

    # ------------------------------------------------------------ the roster

    def roster(self) -> RosterLog:
        """The roster log, verified, and grown from what this node has seen of it before."""
        log = RosterLog(self._facts["federation_digest"], self._home.aggregator_key())
        seen = self._seen()  # now: others of this home may learn of more before this is answered
        with self.connected() as service:
            while True:
                page = service.ask("Roster", pb.RosterRequest(first=len(log.records)))
                log.extend(map(_signed, page.records))
                if not page.records or len(log.records) >= page.length:
                    break
        self._keep(log, seen)
        return log

    def kept_roster(self) -> RosterLog:
        """The roster log as this node last saw it, verified again; empty if it never has."""
        log = RosterLog(self._facts["federation_digest"], self._home.aggregator_key())
        file = self._home.roster_file
        if file.exists():
            log.extend(lines_of(file.read_bytes(), str(file)))
        return log

    def _seen(self) -> Mapping[str, Any]:
        """How long the longest log is that this node has seen, and its head."""
        return self._home.pinned("roster") or NOTHING_SEEN

    def _keep(self, log: RosterLog, seen: Mapping[str, Any]) -> None:
        """Keep a log that goes on from what was seen, unless a longer one has been kept since."""
        require_same_history(log.records, **seen)

        def newest(known: Mapping[str, Any] | None) -> Mapping[str, Any]:
            known = known or NOTHING_SEEN
            if known["length"] > len(log.records):
                return known
            require_same_history(log.records, **known)
            lines = b"".join(map(line_of, log.records))
            if not self._home.roster_file.exists() or self._home.roster_file.read_bytes() != lines:
                write_atomic(self._home.roster_file, lines)
            return {"length": len(log.records), "head": log.head}

        self._home.renew("roster", newest)

    # ------------------------------------------------------------ leaving

    def leave(self, give_up_s: float, say: Say) -> Exit:
        """Leave the federation and keep the verified exit bundle under `exit/`.

        Raises RosterError when the bundle is not what the aggregator should have signed.
        """
        home = self._home
        node_id = fingerprint(home.public_key_file.read_bytes())
        wish = Departure(self._facts["federation_digest"], node_id, int(time.time() * 1000))
        signature = SigningKey.load(home.signing_key_file).sign(PURPOSE_DEPARTURE, wish.to_bytes())
        request = pb.LeaveRequest(departure=wish.to_bytes(), signature=signature)
        with contextlib.suppress(GobelinError):
            self.renew_if_due()
        seen = self._seen()
        with self.connected() as service:
            reply = Patience(give_up_s, say).insist(lambda: service.ask("Leave", request))
        log = RosterLog(self._facts["federation_digest"], home.aggregator_key())
        log.extend(map(_signed, reply.records))
        self._keep(log, seen)
        receipts = [Receipt.from_bytes(data) for data in reply.receipts]
        confirmed = verified_exit(reply.exit, reply.signature, receipts, log, home.aggregator_key())
        self._require_mine(confirmed, node_id, receipts)
        with folder_atomic(home.exit) as tmp:
            write_json(tmp / "exit.json", {**asdict(confirmed), "signature": reply.signature})
            write_json(tmp / "receipts.json", {"receipts": [asdict(r) for r in receipts]})
            rows = [{"record": asdict(s.record), "signature": s.signature} for s in log.records]
            write_json(tmp / "roster.json", {"records": rows})
            write_atomic(tmp / "ca.pem", home.ca_file.read_bytes())
        return confirmed

    def _require_mine(self, confirmed: Exit, node_id: str, receipts: list[Receipt]) -> None:
        """Raise RosterError when the bundle is another's, or denies what was receipted here."""
        if confirmed.node_id != node_id:
            raise RosterError("the exit bundle is of another node", REMEDY)
        told = {(r.round, r.delta_digest) for r in receipts if r.counted}
        for receipt in filter(None, (entry.receipt for entry in entries_in(self._home.spool))):
            if receipt.counted and (receipt.round, receipt.delta_digest) not in told:
                raise RosterError(
                    f"the exit bundle leaves out round {receipt.round}, which counted", REMEDY
                )


def known_roster(home: NodeHome) -> RosterLog | None:
    """The roster log as it is now, or as last seen where the service does not answer.

    None for a node that has not joined by an invite: it knows no service. Raises RosterError.
    """
    if not home.enrolment_file.exists() or not home.certificate_file.exists():
        return None
    membership = Membership(home)
    try:
        return membership.roster()
    except UnreachableError:
        return membership.kept_roster()


def verified_exit(
    data: bytes, signature: str, receipts: list[Receipt], log: RosterLog, aggregator_key: str
) -> Exit:
    """What the aggregator confirmed, verified against its key, the receipts and the roster log.

    Raises RosterError on any difference.
    """
    try:
        verify(aggregator_key, PURPOSE_EXIT, data, signature)
        confirmed = Exit.from_bytes(data)
    except (SignatureError, MalformedMessageError):
        raise RosterError("the exit bundle is not signed by the aggregator", REMEDY) from None
    last = log.records[-1].record if log.records else None
    if last is None or (last.change, last.digest) != (LEAVE, confirmed.record_digest):
        raise RosterError("the roster log does not end with the leaving", REMEDY)
    if id_of(last) != confirmed.node_id:
        raise RosterError("the record of leaving is another node's", REMEDY)
    if (len(receipts), digest_of_receipts(receipts)) != (
        confirmed.receipts,
        confirmed.receipts_digest,
    ):
        raise RosterError("the receipts are not those that were signed", REMEDY)
    return confirmed


@contextmanager
def kept_up(home: NodeHome, say: Say) -> Iterator[None]:
    """Keep the certificate of a node that has joined by an invite fresh while it runs."""
    if not home.certificate_file.exists() or not home.enrolment_file.exists():
        yield  # admitted by its node.pub: it has none
        return
    membership, done = Membership(home), threading.Event()

    def look() -> None:
        while True:
            try:
                if membership.renew_if_due():
                    say("the node's certificate was renewed")
            except (GobelinError, OSError) as error:
                say(f"the node's certificate could not be renewed: {error}")
            if done.wait(LOOK_EVERY_S * random.uniform(1 - JITTER, 1 + JITTER)):  # noqa: S311
                return

    threading.Thread(target=look, name="certificate", daemon=True).start()
    try:
        yield
    finally:
        done.set()


def _signed(told: Any) -> Signed:
    return Signed.parse(told.record, told.signature, "the roster")
