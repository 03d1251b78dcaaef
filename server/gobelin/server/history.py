"""Sealed rounds that may still be answered: their plans, and the nodes that owe them an answer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from gobelin.protocols.messages import RoundPlan


@dataclass(frozen=True)
class Past:
    """A sealed round, as far as late contributions are concerned."""

    plan: RoundPlan
    owing: frozenset[str]  # nodes that had a seat in it and of whose answer nothing is known


def past_rounds(facts: Mapping[int, Mapping[str, Any]], plan: RoundPlan) -> dict[int, Past]:
    """The rounds that may be answered in the plan's, from what was recorded of them and since."""
    known = {
        (number - row["staleness"], row["id"])
        for number, recorded in facts.items()
        for row in (*recorded["contributions"], *recorded["refused"])
    }
    return {
        number: Past(
            RoundPlan.from_bytes(recorded["plan"].encode()),
            frozenset(
                node["id"] for node in recorded["absent"] if (number, node["id"]) not in known
            ),
        )
        for number, recorded in facts.items()
        if _alike(plan, number, plan.round)
    }


def answerable(plan: RoundPlan, numbers: Iterable[int], max_staleness: int) -> frozenset[int]:
    """Those of the rounds `numbers` that may be answered in a round after the plan's."""

    def last(number: int) -> int:
        return min(plan.rounds, number + max_staleness)

    return frozenset(
        number
        for number in numbers
        if any(_alike(plan, number, at) for at in range(plan.round + 1, last(number) + 1))
    )


def _alike(plan: RoundPlan, one: int, other: int) -> bool:
    """Whether two rounds exchange the same fragment."""
    return (one - other) % plan.fragments == 0
