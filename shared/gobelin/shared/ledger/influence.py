"""Influence per member over time, read from the ledger's rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from gobelin.shared.ledger.course import course_of
from gobelin.shared.ledger.record import Entry

LEFT = "rolled_back"  # reason: counted in a round that the federation has gone back behind


def influence_of(
    entries: Iterable[Entry], last: int, rollbacks: Mapping[int, int]
) -> dict[str, dict[str, Any]]:
    """By member: its influence and weight in each round, their sums, and what was not counted.

    `entries` are those of rounds up to `last`, of which one at a time is held: rounds are many.
    Influence is of a member, so that of several nodes of one member counts once a round. What was
    counted off the course that the last round is on is in no consensus any more, and left out.
    """
    course = course_of(last, rollbacks)
    members: dict[str, dict[str, Any]] = {}
    for entry in entries:
        for row in entry.rows:
            of = members.setdefault(
                row.member,
                {"rounds": {}, "influence": 0.0, "weight": 0.0, "counted": 0, "reasons": {}},
            )
            if not row.counted:
                of["reasons"][row.reason] = of["reasons"].get(row.reason, 0) + 1
                continue
            if row.round not in course:
                of["reasons"][LEFT] = of["reasons"].get(LEFT, 0) + 1
                continue
            told = of["rounds"].setdefault(
                str(row.round), {"influence": row.influence, "weight": 0.0}
            )
            told["weight"] += row.weight
            of["weight"] += row.weight
            of["counted"] += 1
    for of in members.values():
        of["influence"] = sum(told["influence"] for told in of["rounds"].values())
    whole = sum(of["influence"] for of in members.values())
    for of in members.values():
        of["share"] = of["influence"] / whole if whole else 0.0
    return dict(sorted(members.items()))
