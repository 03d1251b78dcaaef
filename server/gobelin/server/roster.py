"""The roster: the members of a federation and the contributor nodes they own."""

from __future__ import annotations

from dataclasses import dataclass

from gobelin.shared.errors import ConfigError
from gobelin.shared.keys import fingerprint


@dataclass(frozen=True)
class NodeEntry:
    """One contributor node on the roster."""

    member: str
    name: str
    public_key: str  # PEM

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
            if node.id == entry.id:
                raise ConfigError(f"this key is already node {node.name!r}", "nothing to do")
        return Roster((*self.nodes, entry))
