"""The state of one round, and what can be told from it alone; `round_steps` moves it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from fractions import Fraction
from typing import Any

from gobelin.server.evidence import harmful
from gobelin.server.reasons import Refusal, RefusalCode
from gobelin.server.round_events import Asked, Seat


class Phase(StrEnum):
    """Where a round stands."""

    OPEN = "open"  # too few members are online
    COLLECTING = "collecting"  # the plan is offered, contributions come in
    CLOSED = "closed"  # what is in is fixed
    AGGREGATED = "aggregated"  # what it comes to is known
    SEALED = "sealed"
    VOID = "void"  # an attempt without its minimum; what it gathered stays for the next one


@dataclass(frozen=True)
class Terms:
    """What bounds a round, times in seconds."""

    quorum: Fraction  # share of the members with a seat who must contribute
    min_members: int  # and never fewer of them
    deadline_s: float  # from the offer
    grace_s: float  # from the moment the quorum is there
    wait_s: float  # for the needed members to be online
    attempts: int
    rejoin_s: float  # what nodes need to be back after the aggregator was killed
    max_staleness: int = 0  # rounds after which a late answer is refused
    quality_floor: float = math.inf  # τ of `evidence.quality_floor`; none unless told
    history: Sequence[float] = ()  # members' scores in past rounds

    def needed(self, seats: Mapping[str, Seat]) -> int:
        """How many members must contribute."""
        members = {seat.member for seat in seats.values()}
        return max(self.min_members, math.ceil(self.quorum * len(members)))


@dataclass(frozen=True)
class Known:
    """What a round leaves the next one to know of nodes' sessions; a kill forgets it."""

    offered: Mapping[Asked, str] = field(default_factory=dict)  # the session of each then
    away: Mapping[str, str] = field(default_factory=dict)  # nodes by choice, and their session


@dataclass(frozen=True)
class Round:
    """One round; nodes are known by id, the fingerprint of their key.

    `past` says which earlier rounds may still be answered, and by whom: nodes that had a seat
    in them and were not counted. Such an answer counts late, here, and once.
    """

    number: int
    plan_digest: str
    base_digest: str
    terms: Terms
    since: float  # when this attempt's phase began, or went on after a kill
    past: Mapping[int, frozenset[str]] = field(default_factory=dict)
    phase: Phase = Phase.OPEN
    attempt: int = 1
    seats: Mapping[str, Seat] = field(default_factory=dict)  # the roster when it was convened
    counted: Mapping[Asked, Mapping[str, Any]] = field(default_factory=dict)  # what was sent
    refused: Mapping[Asked, RefusalCode] = field(default_factory=dict)
    roster: Mapping[str, Seat] = field(default_factory=dict)  # as it was last seen
    online: Mapping[str, str] = field(default_factory=dict)  # since when, as the courier says
    offered: Mapping[Asked, str] = field(default_factory=dict)  # the node's `online` then
    away: Mapping[str, str] = field(default_factory=dict)  # paused nodes, and their session then
    notified: Mapping[str, str] = field(default_factory=dict)  # nodes, and of what in which session
    baseless: frozenset[str] = frozenset()  # nodes that must be sent the whole base
    enough_since: float = math.inf  # when the quorum was there
    rejoin_until: float = -math.inf  # so long absent nodes are awaited after a kill
    waiting_for: str = ""

    @property
    def answered(self) -> set[str]:
        """Nodes whose answer to this round's own plan is counted."""
        return {asked.node for asked in self.counted if asked.round == self.number}

    @property
    def harmful(self) -> dict[Asked, Refusal]:
        """Counted contributions that lie below the quality floor, as far as it is known."""
        return harmful(self.counted, self.terms.history, self.terms.quality_floor)

    @property
    def members(self) -> set[str]:
        """Members of whom a node has answered, and well: late answers are no part of a quorum."""
        well = set(self.counted) - set(self.harmful)
        return {self.seats[asked.node].member for asked in well if asked.round == self.number}

    @property
    def able(self) -> set[str]:
        """Members who have answered, or still may."""
        return self.members | {
            seat.member for node, seat in self.seats.items() if node in self.roster
        }

    @property
    def gone(self) -> set[str]:
        """Members whose seats are off the roster, unanswered; none while the roster is unknown."""
        return {seat.member for seat in self.seats.values()} - self.able if self.roster else set()

    @property
    def needed(self) -> int:
        """How many members must have answered."""
        return self.terms.needed(self.seats)

    def present(self, node: str) -> bool:
        """Whether a node is online and takes part: one that has paused does when it comes back."""
        return node in self.online and self.away.get(node) != self.online[node]

    def lacking(self, number: int) -> tuple[str, ...]:
        """Nodes online that may answer a round and have not been asked since they came."""
        may = self.seats if number == self.number else self.past[number] - self._judged(number)
        return tuple(
            sorted(
                node
                for node, since in self.online.items()
                if node in may and node in self.seats and self.present(node)
                if Asked(node, number) not in self.counted
                and self.offered.get(Asked(node, number)) != since
            )
        )

    def _judged(self, number: int) -> set[str]:
        """Nodes whose answer to a round was refused."""
        return {asked.node for asked in self.refused if asked.round == number}

    def owing(self, at: float) -> set[str]:
        """Nodes worth waiting for; a refused one owes no answer until it restarts."""
        here = {node for node in self.online if self.present(node)}
        near = set(self.seats) if at < self.rejoin_until else here
        done = self.answered | self._judged(self.number)
        return (near & set(self.seats) & set(self.roster)) - done


def screen(state: Round, node: str, number: int) -> Refusal | None:
    """Why a node's answer to a round's plan need not even be looked at."""
    if node not in state.seats or node not in state.roster:
        return Refusal(RefusalCode.NOT_ON_ROSTER, "")
    again = f"this node's contribution to round {number} is already counted"
    if Asked(node, number) in state.counted:
        return Refusal(RefusalCode.DUPLICATE, again)
    if number < state.number:
        if number not in state.past:
            return Refusal(RefusalCode.STALE, f"made for round {number}, this is {state.number}")
        if node not in state.past[number]:
            return Refusal(RefusalCode.DUPLICATE, f"round {number} has had its word on this node")
    return None
