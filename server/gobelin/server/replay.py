"""Replay: sealed rounds computed again, from archived contributions, and compared to the bit.

The same admission, policy, rule, outer optimizer and broadcast as when the round was sealed. What
the aggregator measured is taken from the record, for the public probe may be gone; all else is
computed from the bytes that came. Every round goes on from what the replay itself has left. Of
rounds whose deltas were masked nobody has single ones: they are told, and taken from the record.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from gobelin.protocols.messages import MalformedMessageError, RoundPlan
from gobelin.server.admission import Admitted, Refusal, admit
from gobelin.server.archive import Archive
from gobelin.server.contribution_row import row_of
from gobelin.server.deltas import GroupedDeltas
from gobelin.server.home import AggregatorHome
from gobelin.server.pooling import pool_modalities
from gobelin.server.quality import Examiner
from gobelin.server.round_events import Asked, Seat
from gobelin.server.seal import Merging, Outcome, Standing
from gobelin.shared.checkpoint import Checkpoint, read_checkpoint
from gobelin.shared.errors import GobelinError, LedgerError
from gobelin.shared.fragments import fragment_of_round
from gobelin.shared.ledger import Entry, entry_of
from gobelin.shared.objective import Moments
from gobelin.shared.vector import digest_of_values

REMEDY = "ask for the archive of this round again, or doubt the aggregator"
COMPARED = ("delta_digest", "local_steps", "codec", "modality", "moments_digest", "weight")


@dataclass(frozen=True)
class Replayed:
    """A round that came out as it was sealed, or one that nobody can compute again."""

    round: int
    contributions: int
    vector_digest: str
    sealed: bool = False  # only the sum of its deltas was ever known: it is taken from the record
    rollback: bool = False  # it trained nothing: it leaves what an earlier round has left


class _RemovedError(Exception):
    """Retention has removed what a round is computed from; its argument is the round's number."""


def replay(home: AggregatorHome, entries: Mapping[int, Entry]) -> list[Replayed]:
    """Compute every sealed round again; `entries` are those of the verified ledger.

    From the first one on that has its replies in the archive, as all behind it have: what was
    pruned, before or meanwhile, cannot be repeated. Raises LedgerError naming the first round that
    differs, and why.
    """
    start = 0
    while True:
        try:
            return list(_replay(home, entries, start))
        except _RemovedError as removed:
            (start,) = removed.args  # where its own checkpoint is left, it may be started from


def _replay(home: AggregatorHome, entries: Mapping[int, Entry], start: int) -> Iterator[Replayed]:
    sealed = [n for n in _with_replies(home) if n >= start and n in entries]
    if not sealed:
        return
    first = _checkpoint(home, sealed[0])
    _differ(sealed[0], "the first model", first.vector.digest, entries[sealed[0]].record)
    standing = Standing.of(first)
    restored = {entry.record.restores for entry in entries.values() if entry.record.why}
    left = {sealed[0]: standing} if sealed[0] in restored else {}  # by rounds that are gone back to
    merging = Merging(home.settings(), home.recipe(), Examiner({}, {}))
    scratch = Path(tempfile.mkdtemp(prefix="gobelin-replay-"))
    try:
        for number in sealed[1:]:
            if entries[number].record.why:
                standing = _rolled_back(home, number, standing, left, entries[number])
                left |= {number: standing} if number in restored else {}
                yield Replayed(number, 0, standing.base.digest, rollback=True)
                continue
            if _plan_of(number, _manifest(home, number)["facts"]).sealed:
                checkpoint = _checkpoint(home, number)
                standing = _believed(home, number, standing, checkpoint, entries[number])
                left |= {number: standing} if number in restored else {}
                count = len(checkpoint.facts["contributions"])
                yield Replayed(number, count, standing.base.digest, sealed=True)
                continue
            outcome = _Round(home, number, standing, scratch).outcome(merging)
            _compare(home, number, outcome, entries[number])
            standing = outcome.standing
            left |= {number: standing} if number in restored else {}
            yield Replayed(number, len(outcome.rows), standing.base.digest)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _with_replies(home: AggregatorHome) -> list[int]:
    """The rounds from the first one on that has replies, and the one it starts from.

    Retention takes the oldest; a gap behind them is damage.
    """
    sealed, archived = home.sealed_rounds(), Archive(home.archive).rounds()
    if not archived:
        return sealed  # none was ever kept: the first says so
    return [number for number in sealed if number >= archived[0] - 1] or sealed[-1:]


@contextmanager
def _reading(folder: Path, number: int) -> Iterator[None]:
    """Raise _RemovedError of round `number` where a folder goes while it is read."""
    try:
        yield
    except GobelinError:
        if folder.exists():
            raise
        raise _RemovedError(number) from None


def _checkpoint(home: AggregatorHome, number: int) -> Checkpoint:
    with _reading(home.round_folder(number), number):
        return read_checkpoint(home.round_folder(number))


def _manifest(home: AggregatorHome, number: int) -> dict[str, Any]:
    with _reading(home.round_folder(number), number):
        return home.manifest(number)


class _Round:
    """One sealed round, as far as it is recorded, and its archived replies."""

    def __init__(
        self, home: AggregatorHome, number: int, standing: Standing, scratch: Path
    ) -> None:
        self._home, self._number, self._standing = home, number, standing
        self._facts = _manifest(home, number)["facts"]
        self._plan = _plan_of(number, self._facts)
        self._fragment = fragment_of_round(
            standing.base.schema, self._plan.fragments, self._plan.round
        )
        recipe = home.recipe()
        self._modalities, self._dim = recipe.told_modalities, recipe.projector.out
        self._schemas = {name: self._fragment.part(name).schema for name in self._modalities}
        self._deltas = GroupedDeltas(scratch / "deltas", self._fragment, self._modalities)

    def outcome(self, merging: Merging) -> Outcome:
        """What the archived contributions come to; raises LedgerError where one is not as told."""
        if self._plan.base_digest != self._standing.base.digest:
            raise LedgerError(f"round {self._number} starts from another base", REMEDY)
        told = {_asked(self._number, row): row for row in self._facts["contributions"]}
        rows: list[Mapping[str, Any]] = []
        moments: dict[str, Moments] = {}
        try:
            for asked in sorted(told):
                admitted = self._admit(asked)
                row = told[asked]
                seat = Seat(row["member"], row["node"])
                late = self._number - asked.round
                made, norm = admitted.contribution, admitted.delta.norm()
                size, measured = admitted.payload_bytes, row["measured"]
                rows.append(row_of(asked.node, seat, made, norm, size, measured, late))
                self._deltas.add(str(asked), admitted.contribution.modality, admitted.delta)
                if admitted.moments is not None and not late:
                    moments[asked.node] = admitted.moments
            owners = {row["id"]: row["member"] for row in rows}
            kinds = {row["id"]: row["modality"] for row in rows if row["id"] in moments}
            pooled = pool_modalities(moments, owners, kinds, self._modalities)
            deltas = self._deltas.by_group
            return merging.aggregate(self._standing, self._fragment, deltas, rows, pooled)
        finally:
            self._deltas.remove()

    def _admit(self, asked: Asked) -> Admitted:
        archive = Archive(self._home.archive)
        reply = archive.reply(self._number, asked)
        where = f"round {self._number}: the contribution of {asked.node[:12]}"
        if reply is None:
            if (kept := archive.rounds()) and kept[0] > self._number:
                raise _RemovedError(self._number)
            raise LedgerError(f"{where} is not in the archive", _remedy(self._home))
        plan = self._plan
        if asked.round != self._number:
            with _reading(self._home.round_folder(asked.round), self._number):
                plan = _plan_of(asked.round, self._home.facts(asked.round))
        found = admit(plan, self._schemas, self._dim, reply.header, reply.arrays, reply.moments)
        if isinstance(found, Refusal):
            raise LedgerError(f"{where} would be refused: {found.reason} ({found.found})", REMEDY)
        return found


def _remedy(home: AggregatorHome) -> str:
    """What mends that a contribution is not in the archive: of an empty one that is a setting."""
    if Archive(home.archive).rounds():
        return REMEDY
    settings = home.settings()
    if not settings.rounds.archive:
        return "set rounds.archive = true in the aggregator's home: rounds from then on are kept"
    if settings.retention.archives == 0:
        return "raise retention.archives in the aggregator's home: rounds from then on are kept"
    if not home.tls.exists():
        return "export once more, with --replay"
    return (
        "restore archive/ from a backup, or seal a round first if rounds.archive was set just now"
    )


def _plan_of(number: int, facts: Mapping[str, Any]) -> RoundPlan:
    try:
        plan = RoundPlan.from_bytes(facts["plan"].encode())
    except (KeyError, MalformedMessageError):
        raise LedgerError(f"round {number} has no plan on record", REMEDY) from None
    if plan.digest != facts["plan_digest"]:
        raise LedgerError(f"round {number} has another plan on record", REMEDY)
    return plan


def _believed(
    home: AggregatorHome, number: int, before: Standing, checkpoint: Checkpoint, entry: Entry
) -> Standing:
    """What a round left whose deltas were masked: all that can be checked is that it is on record.

    Raises LedgerError where it is not, or starts from another base than the replay has come to.
    """
    if checkpoint.facts["base_digest"] != before.base.digest:
        raise LedgerError(f"round {number} starts from another base", REMEDY)
    if entry_of(_manifest(home, number)) != entry:
        raise LedgerError(f"round {number} is recorded otherwise than in the ledger", REMEDY)
    _differ(number, "its consensus", checkpoint.vector.digest, entry.record)
    return Standing.of(checkpoint)


def _rolled_back(
    home: AggregatorHome, number: int, before: Standing, left: Mapping[int, Standing], entry: Entry
) -> Standing:
    """What a rollback left: to the bit what the round had left that it went back to.

    Raises LedgerError where it is not. Where that round lies before what is here, or its release
    was all there was, the rollback's own checkpoint is believed as far as the ledger has it.
    """
    checkpoint = _checkpoint(home, number)
    standing = _believed(home, number, before, checkpoint, entry)
    source = left.get(entry.record.restores)
    if source is None or checkpoint.facts["rollback"]["state"] != "kept":
        return standing
    if _state_of(standing) != _state_of(source):
        raise LedgerError(
            f"round {number} differs: it is not all that round {entry.record.restores} left", REMEDY
        )
    return standing


def _state_of(standing: Standing) -> tuple[Any, ...]:
    """All that the next round's arithmetic starts from, to be compared."""

    def digests(tensors: Mapping[str, Tensor]) -> dict[str, str]:
        return {name: digest_of_values(tensor) for name, tensor in tensors.items()}

    owed = {} if standing.owed is None else {"owed": standing.owed}
    moments = standing.moments.digest if standing.moments else ""
    scores = tuple(standing.scores)
    tables = (standing.outer, standing.merge, owed)
    return (standing.base.digest, *map(digests, tables), moments, scores)


def _asked(number: int, row: Mapping[str, Any]) -> Asked:
    return Asked(row["id"], number - row["staleness"])


def _compare(home: AggregatorHome, number: int, outcome: Outcome, entry: Entry) -> None:
    """Raise LedgerError unless a replayed round is the one that was sealed and is in the ledger."""
    manifest = _manifest(home, number)
    if entry_of(manifest) != entry:
        raise LedgerError(f"round {number} is recorded otherwise than in the ledger", REMEDY)
    made = {_asked(number, row): row for row in outcome.rows}
    for row in manifest["facts"]["contributions"]:
        other = made[_asked(number, row)]
        for name in COMPARED:
            if other[name] != row[name]:
                what = f"the {name} of {row['node']} is {other[name]!r}, sealed was {row[name]!r}"
                raise LedgerError(f"round {number} differs: {what}", REMEDY)
    influence = {name: of["influence"] for name, of in outcome.merged.members.items()}
    for row in entry.rows:
        if row.counted and influence[row.member] != row.influence:
            raise LedgerError(f"round {number} differs: the influence of {row.member}", REMEDY)
    moments = outcome.standing.moments
    told = {
        "aggregate_digest": outcome.facts["aggregate_digest"],
        "vector_digest": outcome.standing.base.digest,
    }
    for name, found in told.items():
        sealed = getattr(entry.record, name)
        if sealed and found != sealed:
            what = f"its {name} is {found[:12]}…, sealed was {sealed[:12]}…"
            raise LedgerError(f"round {number} differs: {what}", REMEDY)
    if (moments.digest if moments else "") != manifest["facts"].get("moments_digest", ""):
        raise LedgerError(f"round {number} differs: the pooled moments are others", REMEDY)


def _differ(number: int, what: str, found: str, record: Any) -> None:
    if found != record.vector_digest:
        raise LedgerError(f"round {number} differs: {what} is not the ledger's", REMEDY)
