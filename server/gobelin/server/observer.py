"""The observer: reads an aggregator's home into an overview, again and again, and changes nothing.

Everything it tells lies on disk: sealed rounds, the open round's journal, the event log, the
roster, releases, the ledger, the SuperLink's heartbeats. What was read once and cannot change is
kept, so the next look costs milliseconds, also after a thousand rounds.
"""

from __future__ import annotations

import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from gobelin.server.alerts import alerts_of
from gobelin.server.contacts import Contact, read_contacts
from gobelin.server.enrolment import Desk
from gobelin.server.event_tail import EventTail, RoundTimes
from gobelin.server.home import AggregatorHome, FederationSettings
from gobelin.server.journal import Journal
from gobelin.server.overview import (
    DiskView,
    HeadView,
    MemberView,
    NodeView,
    OpenView,
    Overview,
    ProcessView,
    ReleaseView,
    RoundPoint,
)
from gobelin.server.roster import NodeEntry, Roster
from gobelin.server.round_events import Convened, Durable
from gobelin.server.round_state import Phase, Round
from gobelin.server.round_steps import fold
from gobelin.server.sealed_rounds import SealedRounds, Tally, last_of
from gobelin.server.terms import terms_of
from gobelin.shared.address import format_address
from gobelin.shared.errors import GobelinError, LedgerError, StateError
from gobelin.shared.federation import parse_certificate
from gobelin.shared.files import read_json
from gobelin.shared.ledger import LedgerFolder, SignedHead
from gobelin.shared.locks import is_owned
from gobelin.shared.pausing import read_pause
from gobelin.shared.resident import resident_bytes
from gobelin.shared.shelf import Announced, Shelf

Verdict = tuple[str, str]  # of a release: holds, broken or unknown, and what is broken


class Observer:
    """Watches one home; not for several threads at a time."""

    def __init__(self, home: AggregatorHome, wall: Callable[[], float] = time.time) -> None:
        """`wall` is Unix time. Raises StateError where there is no home."""
        home.require()
        self.home = home
        self.sealed = SealedRounds(home)
        self.events = EventTail(home)
        self._wall = wall
        self._journal: tuple[tuple[int, int], list[Durable]] = ((0, 0), [])
        self._points: list[RoundPoint] = []
        self._contacts: dict[str, Contact] = {}
        self.verdicts: dict[str, Verdict] = {}  # of releases, by name: who looks into them says

    def look(self) -> Overview:
        """The overview as of now, with its alerts."""
        home, now = self.home, self._wall()
        settings = home.settings()
        self.sealed.refresh()
        self.events.refresh(self.sealed.number)
        if (contacts := read_contacts(home.flower / "link.db")) is not None:
            self._contacts = contacts
        roster = home.roster()
        running = is_owned(home.folder)
        seen = [contact.seen for contact in self._contacts.values()]
        open_round, state = self._open(settings, roster)
        network = settings.network
        overview = Overview(
            at=now,
            federation=settings.name,
            running=running,
            address=format_address(network.host, network.port),
            service_address=format_address(network.host, network.service_port),
            rounds=settings.rounds.rounds,
            sealed=self.sealed.number,
            release_every=settings.rounds.release_every,
            reference_batch=self.sealed.batch,
            open=open_round,
            members=self._members(roster),
            nodes=tuple(self._node(entry, open_round, state) for entry in roster.nodes),
            history=self._history(),
            releases=tuple(self._release(one) for one in self._announced()),
            ledger=self._head(),
            waiting=tuple(request.node for request in Desk(home).waiting()),
            processes=_processes(home, running),
            disk=self._disk(),
            paused=read_pause(home.folder),
            certificate_expires=self._expires(),
            clock_ahead=max(0.0, max([self.events.ahead, *seen]) - now),
            broadcast=self.sealed.last.get("broadcast"),
            failure=self.events.failure,
            finished=self.sealed.number is not None
            and self.sealed.number >= settings.rounds.rounds,
            last_event=self.events.last,
        )
        return replace(overview, alerts=alerts_of(overview))

    def times(self, number: int) -> RoundTimes:
        """What the event log has said of a round."""
        return self.events.rounds.get(number, RoundTimes())

    # ------------------------------------------------------------ the open round

    def _open(
        self, settings: FederationSettings, roster: Roster
    ) -> tuple[OpenView | None, Round | None]:
        """Where the round behind the last sealed one stands."""
        last = self.sealed.number
        if last is None or last >= settings.rounds.rounds:
            return None, None
        number, terms = last + 1, terms_of(settings)
        times = self.times(number)
        state: Round | None = None
        match self._journalled():
            case [Convened(plan_digest=digest), *_] as events if (
                digest != self.sealed.last.get("plan_digest")  # else killed before it was cleared
            ):
                state = _folded(Round(number, digest, "", terms, since=0.0), events)
        if state is not None:
            return self._collecting(state, times, terms.deadline_s), state
        members = len({node.member for node in roster.contributors})
        needed = int(max(terms.min_members, -(-terms.quorum * members // 1)))
        phase = str(Phase.VOID if times.void else Phase.OPEN)
        says = self.events.says
        return OpenView(number, phase, 1, times.opened, None, needed, says=says), None

    def _collecting(self, state: Round, times: RoundTimes, deadline_s: float) -> OpenView:
        """A round that has been convened, as its journal and the log have it."""
        names = {node: seat.name for node, seat in state.seats.items()}
        deadline = None
        if state.phase is Phase.COLLECTING and times.attempt_at is not None:
            deadline = times.attempt_at + deadline_s
        late = [names[asked.node] for asked in state.counted if asked.round != state.number]
        refused = [one for one in times.refused if one.node in names.values()]
        return OpenView(
            round=state.number,
            phase=str(state.phase),
            attempt=state.attempt,
            opened=times.opened,
            deadline=deadline,
            needed=state.needed,
            members=tuple(sorted(state.members)),
            nodes=tuple(sorted(names[node] for node in state.answered)),
            late=tuple(sorted(late)),
            owing=tuple(sorted(names[node] for node in state.seats.keys() - state.answered)),
            refused=tuple(refused),
            says=self.events.says or times.void,
        )

    def _journalled(self) -> list[Durable]:
        """The journal's events, parsed again only when it has changed."""
        journal = Journal(self.home.journal)
        stamp = journal.stamp()
        if stamp != self._journal[0]:
            self._journal = (stamp, journal.events())
        return self._journal[1]

    # ------------------------------------------------------------ who takes part

    def _node(self, entry: NodeEntry, opened: OpenView | None, state: Round | None) -> NodeView:
        contact = self._contacts.get(entry.id)
        tally = self.sealed.nodes.get(entry.id, Tally(entry.name, entry.member))
        told = dict(tally.last)
        for asked, row in state.counted.items() if state else ():
            if asked.node == entry.id and row:
                told = last_of(state.number, row) if state else told
        return NodeView(
            name=entry.name,
            id=entry.id,
            member=entry.member,
            role=entry.role,
            seen=contact.seen if contact else None,
            since=contact.since if contact else None,
            state=_state(entry.name, opened),
            contributed=tally.contributed,
            late=tally.late,
            absent=tally.absent,
            refused=dict(tally.refused),
            sent=tally.sent,
            received=self.events.received[entry.name],
            seconds=tally.seconds,
            **told,
        )

    def _members(self, roster: Roster) -> tuple[MemberView, ...]:
        """All members there are and were."""
        facts = self.sealed.last.get("members", {})
        whole = sum(float(of["influence_total"]) for of in facts.values()) or 1.0
        own = {name: [t for t in self.sealed.nodes.values() if t.member == name] for name in facts}
        names = sorted({*roster.members, *facts})
        return tuple(
            self._member(name, roster, facts.get(name, {}), whole, own.get(name, ()))
            for name in names
        )

    def _member(
        self,
        name: str,
        roster: Roster,
        facts: dict[str, Any],
        whole: float,
        tallies: Iterable[Tally],
    ) -> MemberView:
        tallies = list(tallies)
        total = float(facts.get("influence_total", 0.0))
        refused: Counter[str] = sum((tally.refused for tally in tallies), Counter())
        return MemberView(
            name=name,
            nodes=tuple(node.name for node in roster.nodes if node.member == name),
            influence=float(facts.get("influence", 0.0)),
            influence_total=total,
            share=total / whole,
            reduced=tuple(facts.get("reduced", ())),
            minority_loss=facts.get("minority_loss"),
            contributed=sum(tally.contributed for tally in tallies),
            late=sum(tally.late for tally in tallies),
            absent=sum(tally.absent for tally in tallies),
            refused=dict(refused),
            sent=sum(tally.sent for tally in tallies),
            received=sum(self.events.received[tally.name] for tally in tallies),
            seconds=sum(tally.seconds for tally in tallies),
        )

    # ------------------------------------------------------------ what is sealed

    def _history(self) -> list[RoundPoint]:
        """The sealed rounds' points, with what the event log knows of each."""
        for point in self.sealed.points[len(self._points) :]:
            times = self.times(point.round)
            self._points.append(
                replace(
                    point,
                    received=times.received if point.round in self.events.rounds else None,
                    opened=times.opened,
                    sealed=times.sealed or point.sealed,
                    attempts=max(1, times.attempts),
                )
            )
        return self._points.copy()

    def _announced(self) -> list[Announced]:
        if not self.home.releases.is_dir():
            return []
        return Shelf(self.home.releases).releases()

    def _release(self, one: Announced) -> ReleaseView:
        verified, found = self.verdicts.get(one.name, ("unknown", ""))
        return ReleaseView(
            name=one.name,
            round=one.round,
            issued=one.issued,
            expires=one.expires,
            bytes=one.size,
            digest=one.vector_digest,
            verified=verified,
            found=found,
            head_points_lost=self.events.lost.get(one.round),
        )

    def _head(self) -> HeadView | None:
        """The ledger's newest head; heads are numbered by their size, rounds from 0."""
        folder = LedgerFolder(self.home.ledger)
        size = (self.sealed.number or 0) + 1
        try:
            signed = folder.head(size) or folder.head(size - 1)  # its round has just been sealed
            if signed is None:
                return None
            witnessed = size = signed.head.size
            older: SignedHead | None = signed
            while older is not None and len(older.lines) == 1 and witnessed > max(1, size - 100):
                witnessed -= 1
                older = folder.head(witnessed)
        except (LedgerError, OSError):
            return None
        names = tuple(sorted(line.name for line in signed.lines[1:]))
        if older is None or len(older.lines) == 1:
            witnessed = 0
        return HeadView(size, signed.head.root.hex(), names, witnessed)

    def _expires(self) -> float | None:
        """When the server's certificate ends."""
        file = self.home.tls / "server.pem"
        try:
            certificate = parse_certificate(file.read_bytes(), str(file))
        except (OSError, GobelinError):
            return None
        return certificate.not_valid_after_utc.timestamp()

    def _disk(self) -> DiskView:
        usage = shutil.disk_usage(self.home.folder)
        return DiskView(usage.free, usage.total, self.sealed.bytes)


def _folded(state: Round, events: list[Durable]) -> Round | None:
    """What a journal says of a round; None where it is another's, and about to be cleared."""
    try:
        return fold(state, events)
    except ValueError:
        return None


def _state(name: str, opened: OpenView | None) -> str:
    """How a node stands in the open round."""
    if opened is None:
        return ""
    if name in opened.nodes:
        return "in"
    if any(one.node == name for one in opened.refused):
        return "refused"
    return "awaited" if name in opened.owing else ""


def _processes(home: AggregatorHome, running: bool) -> tuple[ProcessView, ...]:
    """The supervisor's children, by what it noted and the system says."""
    try:
        told = read_json(home.processes_file)["processes"]
    except (StateError, KeyError):
        return ()
    return tuple(
        ProcessView(
            row["name"],
            running and _is_alive(row["pid"]),
            row["started"],
            row["restarts"],
            resident_bytes(row["pid"]) if running else None,
        )
        for row in told
    )


def _is_alive(pid: int | None) -> bool:
    """Whether a process runs, and is neither a zombie nor stopped."""
    if pid is None:
        return False
    try:
        os.kill(pid, 0)
        stat = Path(f"/proc/{pid}/stat")
        state = stat.read_text().rpartition(")")[2].split()[0] if stat.exists() else ""
    except (OSError, IndexError):
        return False
    return state not in ("Z", "T", "X")
