"""The courier: what carries plans to nodes and replies back, whatever the wire."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from gobelin.protocols.messages import Farewell, RoundPlan
from gobelin.server.admission import WireArray
from gobelin.shared.vector import ParameterVector


@dataclass(frozen=True)
class NodeState:
    """What the engine knows of a node: is it online, and since when this time."""

    id: str  # fingerprint of its key
    online: bool
    activated_at: str


@dataclass(frozen=True)
class Reply:
    """What came back from a node for an offered plan: a contribution, or an error code."""

    node: str
    header: bytes = b""
    arrays: Mapping[str, WireArray] = field(default_factory=dict)
    error: str = ""


class Courier(Protocol):
    """Carries plans to nodes and replies back."""

    def nodes(self) -> list[NodeState]:
        """The nodes the engine knows."""
        ...

    def send(
        self, nodes: Iterable[str], message: RoundPlan | Farewell, base: ParameterVector | None
    ) -> None:
        """Send a message, and the base of a plan, to nodes by id."""
        ...

    def replies(self) -> Iterable[Reply]:
        """Replies that have arrived, pulled one at a time."""
        ...
