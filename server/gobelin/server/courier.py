"""The courier: what carries plans to nodes and replies back, whatever the wire."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from gobelin.protocols.bundle import WireArray
from gobelin.protocols.envelope import UNSIGNED, SignedEnvelope
from gobelin.protocols.ledger import LedgerView
from gobelin.protocols.messages import Farewell, Notice, Receipt, RoundPlan
from gobelin.protocols.sealing import SealedCall
from gobelin.server.limits import SMALL, Limit
from gobelin.shared.objective.pools import Pools
from gobelin.shared.step import CodedStep
from gobelin.shared.vector import ParameterVector

MALFORMED = "gobelin:malformed"  # error of a reply that is none
OVERSIZE = "gobelin:oversize"  # error of a reply larger than its parcel's limit; it was not read


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
    moments: WireArray | None = None
    envelope: SignedEnvelope = UNSIGNED
    plan: str = ""  # digest of the plan it was asked to answer, as the courier knows
    lost: bool = False  # the wire has lost the plan, or the answer to it
    cosignature: bytes = b""  # of a head of the ledger


@dataclass(frozen=True)
class Enclosure:
    """What goes with a plan to many nodes alike: its base, whole or as the steps to it.

    And the moments of the last base, where the plan names some.
    """

    base: ParameterVector | None
    steps: tuple[CodedStep, ...] = ()
    moments: Pools | None = None

    def facts(self) -> dict[str, int | None]:
        """How many steps, none for a whole base, and how many bytes."""
        if self.base is not None:
            return {"steps": None, "bytes": 4 * self.base.schema.size}
        return {"steps": len(self.steps), "bytes": sum(step.size for step in self.steps)}


@dataclass(frozen=True)
class Parcel:
    """What goes to one node.

    A plan without an enclosure only asks for what the node has finished for it already.
    """

    node: str
    message: RoundPlan | Farewell | Notice | SealedCall
    enclosure: Enclosure | None
    receipts: tuple[Receipt, ...] = ()
    envelope: SignedEnvelope = UNSIGNED
    limit: Limit = SMALL  # of what it is answered by
    ledger: LedgerView | None = None  # with offers and farewells


class Courier(Protocol):
    """Carries plans to nodes and replies back."""

    def nodes(self) -> list[NodeState]:
        """The nodes the engine knows."""
        ...

    def send(self, parcels: Iterable[Parcel]) -> None:
        """Send every parcel to its node; those with the same enclosure follow one another."""
        ...

    def replies(self) -> Iterable[Reply]:
        """Replies that have arrived, pulled one at a time."""
        ...
