"""The roster: the members of a federation and the contributor nodes they own."""

from __future__ import annotations

import re
from dataclasses import dataclass

from gobelin.protocols.enrolment import CONTRIBUTOR, OBSERVER
from gobelin.shared.errors import ConfigError
from gobelin.shared.keys import fingerprint, parse_public_key, public_pem
from gobelin.shared.signing import find_signing_key


@dataclass(frozen=True)
class NodeEntry:
    """One contributor node on the roster."""

    member: str
    name: str
    public_key: str  # PEM: the key it connects with
    signing_key: str  # hex: the Ed25519 key it signs with
    role: str = CONTRIBUTOR  # or observer: it sees what members see and is asked for nothing

    @classmethod
    def of(
        cls, member: str, name: str, pem: bytes, where: str, role: str = CONTRIBUTOR
    ) -> NodeEntry:
        """The entry of a node with the two keys of its node.pub.

        Raises ConfigError naming `where` when one of them is missing.
        """
        key = public_pem(parse_public_key(pem, where)).decode()
        return cls(member, name, key, find_signing_key(pem, where), role)

    @property
    def id(self) -> str:
        """Fingerprint of the node's public key."""
        return fingerprint(self.public_key.encode(), f"the key of node {self.name}")


@dataclass(frozen=True)
class Roster:
    """The members of a federation and their nodes."""

    nodes: tuple[NodeEntry, ...]

    @property
    def members(self) -> list[str]:
        """Names of the members, sorted."""
        return sorted({node.member for node in self.nodes})

    @property
    def contributors(self) -> tuple[NodeEntry, ...]:
        """The nodes that rounds are offered to."""
        return tuple(node for node in self.nodes if node.role == CONTRIBUTOR)

    def by_id(self) -> dict[str, NodeEntry]:
        """Nodes by the fingerprint of their key."""
        return {node.id: node for node in self.nodes}

    def admit(self, entry: NodeEntry) -> Roster:
        """This roster with one more node; raises ConfigError when name or key is taken."""
        for node in self.nodes:
            if node == entry:
                return self
            if node.name == entry.name:
                raise ConfigError(f"a node named {entry.name!r} exists", "choose another --node")
            if node.id == entry.id or node.signing_key == entry.signing_key:
                raise ConfigError(f"this key is already node {node.name!r}", "nothing to do")
        return Roster((*self.nodes, entry))


def require_name(name: str) -> None:
    """Raise ConfigError unless members and nodes may be called so."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,47}", name):
        raise ConfigError(f"{name!r} is no name", "use letters, digits, '.', '_' and '-'")


def require_role(role: str) -> None:
    """Raise ConfigError unless there is such a role."""
    if role not in (CONTRIBUTOR, OBSERVER):
        raise ConfigError(f"{role!r} is no role", f"use {CONTRIBUTOR} or {OBSERVER}")
