"""After a restore: what do the members know that this home does not?

A backup is of a moment, and rounds may have been sealed since. To seal them once more would be a
second history, which every node refuses for good. So a restored aggregator opens no round before
it has heard, from members who are a quorum and from every node that is online, which is the newest
head of the ledger that each has cosigned. No head is shown meanwhile: nobody has cause to accuse.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from gobelin.protocols.ledger import Cosignature
from gobelin.protocols.messages import MalformedMessageError
from gobelin.server.courier import Reply
from gobelin.server.dispatch import Dispatch
from gobelin.server.rim import LOOK_EVERY_S, POLL_S, Rim
from gobelin.server.round_events import Seat
from gobelin.server.round_state import Terms
from gobelin.shared.errors import LaterHistoryError, RoundError
from gobelin.shared.files import sync_folder
from gobelin.shared.ledger import Line, TreeHead, cosigned_by, origin_of
from gobelin.shared.ledger.note import COSIGNATURE, key_id
from gobelin.shared.patience import pause

FILE = "restored.json"
REMEDY = "restore once more, --with a newer export, or a newer backup; see docs/operations.md"


def is_restored(home: Path) -> bool:
    """Whether a home was restored and has not heard its members since."""
    return (home / FILE).exists()


def confirm(home: Path) -> None:
    """The home knows all that its members do, or its operator says so."""
    (home / FILE).unlink(missing_ok=True)
    sync_folder(home)


class RollCall:
    """Of one restored home, before its rounds."""

    def __init__(self, rim: Rim, dispatch: Dispatch, terms: Terms) -> None:
        self._rim = rim
        self._dispatch = dispatch
        self._terms = terms
        self._asked: dict[str, str] = {}  # node → its session then
        self._heard: dict[str, int] = {}  # node → size of the head it has cosigned, 0 for none

    def hold(self) -> None:
        """Return once enough have been heard and none knows more.

        Raises LaterHistoryError naming who does, RoundError when too few come.
        """
        rim = self._rim
        if not is_restored(rim.home.folder):
            return
        sealed = len(rim.ledger) - 1
        what = f"restored from a backup of round {sealed}; first it is asked what all nodes know"
        rim.tell("waiting", {"reason": what})
        since = looked = rim.clock()
        self._ask(what)
        while not self._enough():
            if rim.clock() >= since + self._terms.wait_s:
                heard = f"{len(self._members())} of {self._needed()} members"
                raise RoundError(
                    f"after a restore only {heard} were heard",
                    "start their nodes; or, if none can know more, gobelin aggregator resume "
                    "--trust-restore",
                )
            rim.sleep(pause(rim.clock() - since, *POLL_S))
            for reply in rim.courier.replies():
                self._take(reply)
            if rim.clock() >= looked + LOOK_EVERY_S:
                self._ask(what)
                looked = rim.clock()
        confirm(rim.home.folder)
        names = {node: seat.name for node, seat in self._seats().items()}
        rim.tell("restore_confirmed", {"nodes": {names[n]: s for n, s in self._heard.items()}})

    def _ask(self, what: str) -> None:
        seats = self._seats()
        online = {s.id: s.activated_at for s in self._rim.courier.nodes() if s.online}
        new = {n: at for n, at in online.items() if n in seats and self._asked.get(n) != at}
        self._asked = {n: at for n, at in {**self._asked, **new}.items() if n in online}
        owners = {node: seats[node].member for node in sorted(new)}
        sealed = len(self._rim.ledger) - 1
        self._rim.courier.send(self._dispatch.notices(sealed, what, owners))

    def _take(self, reply: Reply) -> None:
        """What a node's cosignature proves; whatever else it answers says nothing."""
        seats = self._seats()
        if reply.node not in seats or reply.lost or reply.error:
            self._asked.pop(reply.node, None)
            return
        size = self._size(seats[reply.node], reply.cosignature) if reply.cosignature else 0
        self._heard[reply.node] = size
        if size > len(self._rim.ledger):
            raise LaterHistoryError(
                f"{seats[reply.node].name} has cosigned {size - 1} sealed rounds, this home was "
                f"restored with {len(self._rim.ledger) - 1}",
                REMEDY,
            )
        if reply.cosignature:
            self._rim.ledger.take(reply.node, reply.cosignature)

    def _size(self, seat: Seat, data: bytes) -> int:
        """Of the head that a node has cosigned, 0 where it has not; raises on another history."""
        try:
            given = Cosignature.from_bytes(data)
            root = bytes.fromhex(given.root)
            head = TreeHead(origin_of(given.federation), given.size, root)
            name = key_id(seat.name, COSIGNATURE, seat.key)
            stamp = given.time.to_bytes(8, "big")
            line = Line(seat.name, name, stamp + bytes.fromhex(given.signature))
        except (MalformedMessageError, ValueError, OverflowError):
            return 0
        if not cosigned_by(line, seat.key, head):
            return 0
        if given.size <= len(self._rim.ledger) and self._rim.ledger.root(given.size) != root:
            raise LaterHistoryError(
                f"{seat.name} has cosigned other records of {given.size - 1} rounds than this home "
                "has",
                REMEDY,
            )
        return given.size

    def _enough(self) -> bool:
        return len(self._members()) >= self._needed() and not set(self._asked) - set(self._heard)

    def _needed(self) -> int:
        return self._terms.needed(self._seats())

    def _members(self) -> set[str]:
        seats = self._seats()
        return {seats[node].member for node in self._heard if node in seats}

    def _seats(self) -> Mapping[str, Seat]:
        nodes = self._rim.home.roster().contributors
        return {n.id: Seat(n.member, n.name, n.signing_key) for n in nodes}
