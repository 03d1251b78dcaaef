"""The course: the rounds that a consensus is made of, where its federation has gone back.

A rollback is a round of its own, which trains nothing and leaves what an earlier one has left. So
numbers only grow and the ledger only grows; what lies between the two is off the course for good.
Told as text, such as "9:5,14:11": round 9 went back to what round 5 had left, round 14 to 11.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_TEXT = re.compile(r"(\d{1,9}:\d{1,9}(,\d{1,9}:\d{1,9})*)?")


def told(rollbacks: Mapping[int, int]) -> str:
    """As a plan carries them."""
    return ",".join(f"{at}:{to}" for at, to in sorted(rollbacks.items()))


def parse(text: str) -> dict[int, int]:
    """What `told` gave; raises ValueError on anything else."""
    if not _TEXT.fullmatch(text):
        raise ValueError("no list of rollbacks")
    pairs = [pair.split(":") for pair in text.split(",") if pair]
    found = {int(at): int(to) for at, to in pairs}
    if told(found) != text or any(to >= at for at, to in found.items()):
        raise ValueError("no list of rollbacks")
    return found


def course_of(last: int, rollbacks: Mapping[int, int]) -> frozenset[int]:
    """The rounds whose contributions are in what round `last` left."""
    rounds, at = set(), last
    while at > 0:
        if at in rollbacks:
            at = rollbacks[at]
        else:
            rounds.add(at)
            at -= 1
    return frozenset(rounds)
