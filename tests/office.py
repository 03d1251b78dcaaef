"""A founded federation with our service in a thread, and nodes that join it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gobelin.client.home import NodeHome, NodeSettings
from gobelin.client.join import Joined, Joining
from gobelin.protocols.enrolment import PURPOSE_ENROLMENT, Enrolment
from gobelin.server.enrolment import Desk, Outcome
from gobelin.server.founding import Charter, found
from gobelin.server.home import AggregatorHome
from gobelin.server.places import NetworkSettings, Places
from gobelin.server.service import serve
from gobelin.shared.certificates import make_csr
from gobelin.shared.errors import UnreachableError
from gobelin.shared.invite import Invite
from gobelin.shared.keys import fingerprint, make_key, public_pem
from gobelin.shared.settings import check_settings, write_settings
from gobelin.shared.signing import SigningKey

SECONDS = 30.0  # before a test gives up on a service


def found_places(folder: Path) -> Places:
    """A federation with nobody on its roster."""
    found(folder, Charter("fed", "toy", "127.0.0.1:0", 1))
    return Places(folder)


def listen_on(places: Places, address: str, **ports: int) -> None:
    """Say in federation.toml where a federation listens that nodes call elsewhere."""
    settings = AggregatorHome(places.folder).settings()
    told = settings.network.model_dump() | {"listen": address, **ports}
    network = check_settings(NetworkSettings, told, "a test")
    write_settings(places.settings_file, settings.model_copy(update={"network": network}))


@contextmanager
def serving(places: Places) -> Iterator[None]:
    """Our service, heard."""
    stop = threading.Event()
    thread = threading.Thread(target=serve, args=(places, stop), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(SECONDS)


def invited(places: Places, member: str = "north", **how: Any) -> Invite:
    """An invite, of those that admit at once unless told otherwise."""
    how = {"role": "contributor", "ttl_s": 3600.0, "pre_approved": True, **how}
    return Desk(places).invite(member, **how)


def settings_of(name: str, member: str) -> NodeSettings:
    """Settings of a node whose data nobody looks at."""
    return NodeSettings(member=member, node=name, aggregator="127.0.0.1:1", data={"path": "here"})


def join(folder: Path, invite: Invite, node: str = "", say: Any = lambda line: None) -> Joined:
    """Join from a folder, as the command does."""
    folder.mkdir(parents=True, exist_ok=True)
    return Joining(NodeHome(folder), invite, node, say).run(settings_of, SECONDS)


def until(true: Any) -> None:
    """Wait for something that is bound to happen."""
    give_up = time.monotonic() + SECONDS
    while not true():
        if time.monotonic() > give_up:
            raise UnreachableError("it did not happen")
        time.sleep(0.02)


class Applicant:
    """A node's keys, and what it says with them."""

    def __init__(self) -> None:
        self.key, self.signing = make_key(), SigningKey.generate()
        self.id = fingerprint(public_pem(self.key.public_key()))

    def says(self, shown: Invite, **other: Any) -> tuple[bytes, str]:
        """A signed enrolment; `other` changes what it says."""
        asked = {
            "federation_digest": shown.federation_digest,
            "invite": shown.id,
            "member": shown.member,
            "node": "north",
            "csr": make_csr(self.key, "north", self.signing.public).decode(),
            "signing_key": self.signing.public,
            "at_ms": int(time.time() * 1000),
            **other,
        }
        data = Enrolment(**asked).to_bytes()
        return data, self.signing.sign(PURPOSE_ENROLMENT, data)


def key_of(invite: Invite) -> str:
    """What the handshake tells our service of who holds an invite."""
    return fingerprint(public_pem(invite.key.public_key()))


def show(places: Places, shown: Invite, who: Applicant, **other: Any) -> Outcome:
    """Show an invite at the desk, as our service does for whoever calls."""
    return Desk(places).enrol(key_of(shown), *who.says(shown, **other))
