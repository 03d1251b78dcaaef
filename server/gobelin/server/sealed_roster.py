"""Who on a roster has a place in the sums of sealed rounds.

Members weigh the same in a sum, so each has one node: which of several will send is not known when
the first masks its delta. Our service asks it of whoever enrols, so it needs no tensors.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field

from gobelin.server.roster import NodeEntry, Roster
from gobelin.shared.errors import NoPlaceError
from gobelin.shared.settings import Settings

SealedMembers = Annotated[int, Field(gt=1, le=1024)]
SEALED_MEMBERS = 64
REMEDY = "take one off by `gobelin aggregator revoke`, or make it an observer by `role`"


class SealedSettings(Settings):
    """What of the table `rounds` says who has a place; the rest is passed over."""

    model_config = ConfigDict(extra="ignore")

    sealed: bool = False
    sealed_members: SealedMembers = SEALED_MEMBERS


def require_places(rounds: SealedSettings, roster: Roster, member: str = "") -> None:
    """Raise NoPlaceError where rounds are sealed and their sums have no place for contributors.

    With `member` it is only asked of that one's: others are no reason to refuse it.
    """
    if not rounds.sealed:
        return
    nodes: dict[str, list[str]] = {}
    for node in roster.contributors:
        nodes.setdefault(node.member, []).append(node.name)
    several = [
        f"{' and '.join(names)} are of {owner}"
        for owner, names in sorted(nodes.items())
        if len(names) > 1 and member in ("", owner)
    ]
    if several:
        raise NoPlaceError(f"sealed rounds take one node a member: {', '.join(several)}", REMEDY)
    found, most = len(roster.contributors), rounds.sealed_members
    if found > most:
        raise NoPlaceError(
            f"sealed rounds have place for {most} nodes, these are {found}",
            f"{REMEDY}; before the first round rounds.sealed_members may be raised",
        )


def placed(rounds: SealedSettings, roster: Roster) -> dict[str, NodeEntry]:
    """The contributors that a sum has place for, by id: of each member who was admitted first."""
    first: dict[str, NodeEntry] = {}
    for node in roster.contributors:
        first.setdefault(node.member, node)
    return {node.id: node for node in list(first.values())[: rounds.sealed_members]}
