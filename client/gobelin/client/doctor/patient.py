"""Who is looked at: a node's home or the holder of an invite, and what is found out once."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from gobelin.client.egress_ledger import EgressLedger
from gobelin.client.forecast import Rate
from gobelin.client.home import NodeHome, NodeSettings
from gobelin.client.route import Route, route_to
from gobelin.client.service import Connection, Link, fetch_authority
from gobelin.client.terms import Terms
from gobelin.client.uplink import Uplink
from gobelin.protocols import federation_pb2 as pb
from gobelin.shared.certificates import invited
from gobelin.shared.errors import StateError
from gobelin.shared.files import read_json
from gobelin.shared.invite import Invite
from gobelin.shared.keys import private_pem

T = TypeVar("T")


class Once:
    """Results that several checks share, each made by the first that asks; errors as well."""

    def __init__(self) -> None:
        self._locks: dict[str, threading.Lock] = {}
        self._made: dict[str, tuple[Any, BaseException | None]] = {}
        self._lock = threading.Lock()

    def get(self, name: str, make: Callable[[], T]) -> T:
        """What `make` returns or raises, made once."""
        with self._lock:
            lock = self._locks.setdefault(name, threading.Lock())
        with lock:
            if name not in self._made:
                try:
                    self._made[name] = make(), None
                except Exception as error:
                    self._made[name] = None, error
            made, failure = self._made[name]
        if failure is not None:
            raise failure
        value: T = made
        return value


@dataclass(frozen=True)
class Patient:
    """Either a home or an invite."""

    home: NodeHome | None = None
    invite: Invite | None = None
    once: Once = field(default_factory=Once)

    @classmethod
    def of_home(cls, home: NodeHome) -> Patient:
        """A node's home."""
        return cls(home=home)

    @classmethod
    def of_invite(cls, invite: Invite) -> Patient:
        """Whoever holds an invite."""
        return cls(invite=invite)

    @property
    def node(self) -> NodeHome:
        """The home; raises StateError where there is none yet."""
        if self.home is None:
            raise StateError("this node has not joined", "run `gobelin node join INVITE`")
        return self.home

    @cached_property
    def settings(self) -> NodeSettings:
        """Those of the home."""
        return self.node.settings()

    @property
    def fleet(self) -> str:
        """host:port of the rounds."""
        return self.invite.fleet if self.invite else self.settings.aggregator

    @property
    def service(self) -> str | None:
        """host:port of our service; None for a node that was admitted by its node.pub."""
        if self.invite is not None:
            return self.invite.service
        file = self.node.enrolment_file
        return str(read_json(file)["service"]) if file.exists() else None

    def route(self, address: str) -> Route:
        """How an address is reached."""
        return route_to(address, self._proxy)

    @property
    def _proxy(self) -> str | None:
        return None if self.home is None else self.settings.network.proxy

    @contextmanager
    def connected(self) -> Iterator[Connection]:
        """A connection to our service; raises StateError for a node that has no certificate."""
        if self.invite is not None:
            with tempfile.TemporaryDirectory() as folder:
                ledger = EgressLedger(Path(folder) / "egress.jsonl")
                key, shown = self._shown(self.invite)
                ca = self.authority(ledger).ca_pem
                with Connection(self.invite.service, ca, key, shown, ledger) as service:
                    yield service
            return
        from gobelin.client.membership import Membership

        with Membership(self.node).connected() as service:
            yield service

    def authority(self, ledger: EgressLedger | None = None) -> Any:
        """What the service tells whoever holds the invite; its CA has the invite's pin."""
        invite = self.invite
        if invite is None:
            raise StateError("there is no invite", "give one by --invite")

        def ask() -> Any:
            key, shown = self._shown(invite)
            if ledger is not None:
                return fetch_authority(invite.service, invite.ca_pin, key, shown, ledger)
            with tempfile.TemporaryDirectory() as folder:
                kept = EgressLedger(Path(folder) / "egress.jsonl")
                return fetch_authority(invite.service, invite.ca_pin, key, shown, kept)

        return self.once.get("authority", ask)

    @staticmethod
    def _shown(invite: Invite) -> tuple[bytes, bytes]:
        return private_pem(invite.key), invited(invite.key, invite.id)

    def link(self) -> Link:
        """What a probe has found, timed once."""

        def probe() -> Link:
            with self.connected() as service:
                return service.probe()

        return self.once.get("link", probe)

    def rate(self) -> Rate:
        """How fast bytes leave: over the last contributions, and else by a probe."""
        if self.home is not None:
            known = Uplink(self.home.uplink_file).bytes_per_second()
            if known is not None:
                return Rate(known, "measured over the last contributions")
        found = self.link()
        size = f"{found.sent_bytes / 1e6:.2g} MB"
        return Rate(found.bytes_per_second, f"measured by a probe of {size}")

    def terms(self) -> Terms:
        """What the federation asks: of the last plan, or as the service tells; asked once."""
        return self.once.get("terms", self._terms)

    def _terms(self) -> Terms:
        if self.invite is not None:
            told = self.authority()
            return Terms.of_answer(told.recipe, told.terms)
        from gobelin.client.egress_report import offered_plan

        if self.node.plan_file.exists():
            return Terms.of_plan(offered_plan(self.node))
        with self.connected() as service:
            told = service.ask("Authority", pb.AuthorityRequest())
        return Terms.of_answer(told.recipe, told.terms)
