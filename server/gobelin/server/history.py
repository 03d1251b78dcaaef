"""Sealed rounds that may still be answered: their plans, and the nodes that owe them an answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gobelin.protocols.messages import RoundPlan


@dataclass(frozen=True)
class Past:
    """A sealed round, as far as late contributions are concerned."""

    plan: RoundPlan
    owing: frozenset[str]  # nodes that had a seat in it and have not been counted for it since


def past_rounds(facts: Mapping[int, Mapping[str, Any]]) -> dict[int, Past]:
    """The rounds that may still be answered, from what was recorded of them and all later ones."""
    counted = {
        (row["plan_digest"], row["id"])
        for recorded in facts.values()
        for row in recorded["contributions"]
    }
    return {
        number: Past(
            RoundPlan.from_bytes(recorded["plan"].encode()),
            frozenset(
                node["id"]
                for node in recorded["absent"]
                if (recorded["plan_digest"], node["id"]) not in counted
            ),
        )
        for number, recorded in facts.items()
    }
