"""Joining a federation by an invite, in steps that may be killed and done again.

    keys → enrolment.json → (over the network: CA by its pin, enrolment, approval) → ca.pem,
    node.pem, pins → node.toml, which makes the folder a node's home

Each step writes a file whole or not at all and is left out where the file is there. The aggregator
binds the invite to the keys that showed it first, so doing it again ends where it would have ended.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gobelin.client.egress_ledger import EgressLedger
from gobelin.client.home import NodeHome, NodeSettings
from gobelin.client.service import Connection, Patience, Say, fetch_authority
from gobelin.protocols import federation_pb2 as pb
from gobelin.protocols.enrolment import ADMIT, PURPOSE_ENROLMENT, ROLE, Enrolment
from gobelin.protocols.version import FIRST
from gobelin.shared.certificates import invited, make_csr
from gobelin.shared.errors import (
    ClockError,
    ConfigError,
    EnrolmentError,
    InviteError,
    ProtocolError,
    RosterError,
    SignatureError,
    StateError,
)
from gobelin.shared.federation import federation_digest, parse_certificate, spki_pin
from gobelin.shared.files import (
    PRIVATE,
    find_json,
    is_unfinished,
    read_json,
    write_atomic,
    write_json,
)
from gobelin.shared.formats import require_plan
from gobelin.shared.invite import AGAIN, Invite
from gobelin.shared.keys import (
    fingerprint,
    load_private_key,
    make_key,
    private_pem,
    public_pem,
)
from gobelin.shared.locks import is_lock
from gobelin.shared.roster_log import REMEDY, Signed, id_of
from gobelin.shared.settings import write_settings
from gobelin.shared.signing import SigningKey, find_signing_key, public_signing_pem, verify
from gobelin.shared.words import fingerprint_words

POLL_S = (0.5, 10.0)  # first and longest pause while the operator decides
MAKE_ROOM = "the invite holds: ask the aggregator's operator to make room, then run this again"
OF_NODE = {"taken": "choose another --node", "no_place": MAKE_ROOM}  # remedies, by reason
OF_INVITE = {"unknown", "expired", "used", "bound", "federation"}  # reasons that lie with it


@dataclass(frozen=True)
class Joined:
    """What came of it."""

    home: NodeHome
    member: str
    node: str
    federation: str
    words: str


class Joining:
    """One node on its way into a federation; the caller holds the lock of its home."""

    def __init__(
        self, home: NodeHome, invite: Invite, node: str, say: Say, proxy: str | None = None
    ) -> None:
        """`proxy` is an HTTP proxy on the way; None for what the environment says."""
        self._proxy = proxy
        self._home = home
        self._invite = invite
        self._say = say
        self._node = node or invite.member

    def run(self, settle: Callable[[str, str], NodeSettings], give_up_s: float) -> Joined:
        """Join; `settle` makes the settings of a node, given its name and its member.

        Raises InviteError, EnrolmentError, ClockError, WrongCAError, UnreachableError.
        """
        home, invite = self._home, self._invite
        self.require_new_or_mine()
        self._make_keys()
        self._note()
        patience = Patience(give_up_s, self._say)
        key_pem = private_pem(invite.key)
        shown = invited(invite.key, invite.id)
        address = invite.service
        ledger = EgressLedger(home.egress_file)
        authority = patience.insist(
            lambda: fetch_authority(address, invite.ca_pin, key_pem, shown, ledger, self._proxy)
        ).ca_pem
        with Connection(address, authority, key_pem, shown, ledger, self._proxy) as service:
            request = enrolment_request(home)
            reply = patience.insist(lambda: service.ask("Enrol", request))
            if reply.state == pb.REFUSED:  # before the data are looked at, which takes a while
                require_admitted(reply)
            settings = settle(self._node, invite.member)
            reply = self._wait(service, reply)
        self._verify(reply)
        write_atomic(home.certificate_file, reply.certificate)
        write_atomic(home.ca_file, reply.ca_pem)
        if home.pinned("federation_digest") not in (None, invite.federation_digest):
            home.remember("roster", None)  # the log of the new aggregator begins anew
        home.remember("federation_digest", invite.federation_digest)
        if not home.settings_file.exists():
            write_settings(home.settings_file, settings)  # last: now it is a node's home
        return Joined(home, invite.member, self._node, invite.federation, self.words)

    @property
    def words(self) -> str:
        """The fingerprint words of this node's keys."""
        node_id = fingerprint(public_pem(load_private_key(self._home.key_file).public_key()))
        return fingerprint_words(node_id, SigningKey.load(self._home.signing_key_file).public)

    @property
    def _taken_over(self) -> bool:
        """Whether this node's operator has made the invite's CA the one this home pins."""
        file = self._home.ca_file
        if not file.exists():
            return False
        return spki_pin(parse_certificate(file.read_bytes(), str(file))) == self._invite.ca_pin

    # ------------------------------------------------------------ on this machine

    def require_new_or_mine(self) -> None:
        """Raise StateError on a home that is another's, InviteError when the invite has expired.

        An invite that was shown from here before is bound to this node's keys and holds for ever.
        A home that was founded by `node init` for the same member may join, too: it keeps its keys
        and its settings, and gains a certificate.
        """
        home = self._home
        if home.exit.exists():
            raise StateError(
                f"the node in {home.folder} has left its federation", "choose another --home"
            )
        if home.settings_file.exists():
            settings = home.settings()
            if settings.member != self._invite.member:
                raise StateError(
                    f"{home.folder} is the home of a node of member {settings.member!r}",
                    "choose another --home",
                )
            self._node = settings.node
        elif home.folder.exists() and not home.key_file.exists():
            left = home.folder.iterdir()
            if not all(is_unfinished(path) or is_lock(path) for path in left):
                raise StateError(f"{home.folder} is not empty", "choose an empty or new --home")
        bound = home.pinned("federation_digest")
        if bound not in (None, self._invite.federation_digest) and not self._taken_over:
            raise StateError(
                f"{home.folder} has joined another federation than this invite's",
                f"if its aggregator was taken over, put the new ca.pem in the place of "
                f"{home.ca_file} first; else choose another --home",
            )
        known = find_json(home.enrolment_file) or {}
        if known.get("invite") != self._invite.id:
            self._invite.require_fresh()

    def _make_keys(self) -> None:
        home = self._home
        if not home.key_file.exists():
            write_atomic(home.key_file, private_pem(make_key()), PRIVATE)
        if not home.signing_key_file.exists():
            SigningKey.generate().write(home.signing_key_file)
        key, signing = load_private_key(home.key_file), SigningKey.load(home.signing_key_file)
        both = public_pem(key.public_key()) + public_signing_pem(signing.public)
        if not home.public_key_file.exists() or home.public_key_file.read_bytes() != both:
            write_atomic(home.public_key_file, both)

    def _note(self) -> None:
        """Keep what a later renewal needs: whom this node joins, and by which invite."""
        home, invite = self._home, self._invite
        facts = {
            "invite": invite.id,
            "federation": invite.federation,
            "federation_digest": invite.federation_digest,
            "service": invite.service,
            "ca_pin": invite.ca_pin,
            "member": invite.member,
            "node": self._node,
        }
        if find_json(home.enrolment_file) != facts:
            write_atomic(home.invite_file, private_pem(invite.key), PRIVATE)
            write_json(home.enrolment_file, facts)

    # ------------------------------------------------------------ over the network

    def _wait(self, service: Connection, reply: Any) -> Any:
        """The reply that admits this node, once the operator has decided."""
        if reply.state == pb.WAITING:
            self._say(
                "Waiting to be admitted. Read these words to the aggregator's operator:\n"
                f"  {self.words}"
            )
        node_id = fingerprint(self._home.public_key_file.read_bytes())
        request, pause = pb.StatusRequest(node=node_id), POLL_S[0]
        while reply.state == pb.WAITING:
            time.sleep(pause)
            pause = min(1.5 * pause, POLL_S[1])
            patience = Patience(math.inf, self._say)  # there is no haste
            reply = patience.insist(lambda: service.ask("Status", request))
        require_admitted(reply)
        return reply

    def _verify(self, reply: Any) -> None:
        """Raise unless the reply is of the federation of the invite, and admits these keys."""
        require_federation(reply.ca_pem, reply.genesis, self._invite)
        key = find_signing_key(reply.ca_pem, "the aggregator's ca.pem")
        signed = Signed.parse(reply.record, reply.signature, "the admission")
        try:
            verify(key, "roster record", reply.record, reply.signature)
        except SignatureError:
            raise RosterError("the admission is not signed by the aggregator", REMEDY) from None
        mine = SigningKey.load(self._home.signing_key_file).public
        node_id = fingerprint(self._home.public_key_file.read_bytes())
        about = (id_of(signed.record), signed.record.signing_key)
        if signed.record.change not in (ADMIT, ROLE) or about != (node_id, mine):
            raise RosterError("the admission is of other keys than this node's", REMEDY)


def enrolment_request(home: NodeHome) -> pb.EnrolRequest:
    """The signed request for the keys and the invite in a home."""
    facts = read_json(home.enrolment_file)
    signing = SigningKey.load(home.signing_key_file)
    asked = Enrolment(
        federation_digest=facts["federation_digest"],
        invite=facts["invite"],
        member=facts["member"],
        node=facts["node"],
        csr=make_csr(load_private_key(home.key_file), facts["node"], signing.public).decode(),
        signing_key=signing.public,
        at_ms=int(time.time() * 1000),
    )
    data = asked.to_bytes()
    return pb.EnrolRequest(enrolment=data, signature=signing.sign(PURPOSE_ENROLMENT, data))


def require_admitted(reply: Any) -> None:
    """Raise what a refused enrolment means for whoever asked, and ProtocolError."""
    require_plan(reply.protocol or FIRST)
    if reply.reason == "protocol":
        raise ProtocolError(f"not admitted: {reply.what[:300]}", "then run the same command again")
    if reply.state == pb.ADMITTED:
        return
    what = f"not admitted: {reply.what[:300] or 'no reason was given'}"
    if reply.reason == "clock":
        raise ClockError(what, "set the clock (NTP), then run the same command again")
    if reply.reason in OF_INVITE:
        raise InviteError(what, AGAIN)
    raise EnrolmentError(what, OF_NODE.get(reply.reason, "ask the aggregator's operator"))


def require_federation(ca_pem: bytes, genesis: str, invite: Invite) -> None:
    """Raise RosterError unless these are of the federation that the invite names."""
    try:
        pin = spki_pin(parse_certificate(ca_pem, "ca.pem"))
        key = find_signing_key(ca_pem, "ca.pem")
    except ConfigError as error:
        raise RosterError(error.what, REMEDY) from None
    if federation_digest(invite.federation, pin, key, genesis) != invite.federation_digest:
        raise RosterError("the aggregator's keys are not those of the invite's federation", REMEDY)


def read_invite(text: str, file: Path | None) -> Invite:
    """The invite from the command line, a file, or standard input (`-`)."""
    if bool(text) == (file is not None):
        raise InviteError(
            "give the invite, or --invite-file", "`--invite-file -` reads standard input"
        )
    if file is not None:
        try:
            text = os.fdopen(os.dup(0)).read(1 << 16) if str(file) == "-" else file.read_text()
        except (OSError, UnicodeDecodeError):
            raise InviteError(
                f"{file} cannot be read", "check the path and its permissions"
            ) from None
    return Invite.parse(text)
