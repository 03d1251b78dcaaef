"""What happens to a round, and what it asks for: the events and effects of `round_steps`.

The durable events are what the journal holds; folded in order they give the round back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from gobelin.server.reasons import Refusal, RefusalCode


@dataclass(frozen=True)
class Seat:
    """A node's place in a round: who owns it, what people call it, and what it signs with."""

    member: str
    name: str
    key: str = ""  # hex


class Asked(NamedTuple):
    """A node and the round whose plan it was offered: what can be counted once, ever."""

    node: str
    round: int

    def __str__(self) -> str:
        """A name that sorts as it does, for files."""
        return f"{self.node}-{self.round:05d}"


# ---------------------------------------------------------------- events


@dataclass(frozen=True)
class Convened:
    """Enough members are online: the round collects from the nodes on the roster now."""

    at: float
    plan_digest: str
    attempt: int
    seats: Mapping[str, Seat]
    past: Mapping[int, frozenset[str]]  # earlier rounds that may still be answered, and by whom
    kind: Literal["convened"] = "convened"


@dataclass(frozen=True)
class Counted:
    """An admitted contribution is on disk."""

    at: float
    node: str
    round: int  # whose plan it answers
    row: Mapping[str, Any]  # what is recorded of it
    kind: Literal["counted"] = "counted"


@dataclass(frozen=True)
class Lost:
    """A counted contribution is no longer on disk as it was: it is asked for again."""

    at: float
    node: str
    round: int
    kind: Literal["lost"] = "lost"


@dataclass(frozen=True)
class Closed:
    """No contribution comes in any more."""

    at: float
    kind: Literal["closed"] = "closed"


@dataclass(frozen=True)
class Dropped:
    """Nodes that are not in a sealed round's sum after all."""

    at: float
    nodes: tuple[str, ...]
    reason: RefusalCode
    kind: Literal["dropped"] = "dropped"


@dataclass(frozen=True)
class Voided:
    """The attempt has missed its minimum."""

    at: float
    reason: str
    kind: Literal["voided"] = "voided"


Durable = Convened | Counted | Lost | Closed | Dropped | Voided


@dataclass(frozen=True)
class Looked:
    """Who is on the roster and who is online (id → since when)."""

    at: float
    roster: Mapping[str, Seat]
    online: Mapping[str, str]
    paused: str = ""  # what its operator says while no round may open


@dataclass(frozen=True)
class Ticked:
    """All replies that had arrived have been taken."""

    at: float


@dataclass(frozen=True)
class Refused:
    """A reply that does not count."""

    node: str
    round: int  # whose plan the node was asked to answer
    refusal: Refusal


@dataclass(frozen=True)
class Undelivered:
    """The wire has lost a plan or its answer: the node is to be asked again."""

    node: str
    round: int


@dataclass(frozen=True)
class Reopened:
    """A void round is tried again."""

    at: float


@dataclass(frozen=True)
class Resumed:
    """The aggregator was killed and has folded the journal."""

    at: float


@dataclass(frozen=True)
class Aggregated:
    """The shell holds what the contributions come to."""


@dataclass(frozen=True)
class Sealed:
    """The checkpoint folder exists."""


Event = Durable | Looked | Ticked | Refused | Undelivered | Reopened | Resumed | Aggregated | Sealed


# ---------------------------------------------------------------- effects


@dataclass(frozen=True)
class Record:
    """Journal an event, then step on it."""

    event: Durable


@dataclass(frozen=True)
class Offer:
    """Send the round's plan and base to nodes."""

    nodes: tuple[str, ...]


@dataclass(frozen=True)
class Recall:
    """Ask nodes for what they may have finished for a sealed round; they train nothing for it."""

    round: int
    nodes: tuple[str, ...]


@dataclass(frozen=True)
class Notify:
    """Tell nodes something; they answer nothing that counts."""

    nodes: tuple[str, ...]
    what: str


@dataclass(frozen=True)
class Aggregate:
    """Merge these contributions."""

    asked: tuple[Asked, ...]


@dataclass(frozen=True)
class Seal:
    """Write the checkpoint."""


@dataclass(frozen=True)
class Tell:
    """Put an event into the event log."""

    event: str
    facts: Mapping[str, Any]


@dataclass(frozen=True)
class GiveUp:
    """Stop: the round cannot be completed."""

    what: str
    remedy: str


Effect = Record | Offer | Recall | Notify | Aggregate | Seal | Tell | GiveUp
