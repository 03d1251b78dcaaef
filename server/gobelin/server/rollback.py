"""Rolling the consensus back to what an earlier round has left, without rewriting anything.

The rollback is sealed as the next round: no plan, no contribution, the earlier round's consensus
with all that a round starts from (outer optimizer, rule, pooled moments, the broadcast's debt), and
why. It stands in the ledger like any other, so members see where the federation went back, and who
asks for the newest release gets this one. The commit is the checkpoint folder: a kill before it has
changed nothing, and after it the next start writes what is missing.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gobelin.server.broadcast import STEP
from gobelin.server.home import AggregatorHome
from gobelin.server.journal import Journal
from gobelin.server.ledger import RoundLedger
from gobelin.server.publisher import Publisher
from gobelin.server.round_events import Counted, Lost
from gobelin.server.seal import Standing
from gobelin.shared.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from gobelin.shared.errors import ConfigError, StateError
from gobelin.shared.locks import sole_owner
from gobelin.shared.pausing import MOST

_NAMED = re.compile(r"(round-|release-)?(\d{1,9})")
LINGER_S = 60.0  # the rounds of an aggregator that was killed may outlive it by a moment
UNKNOWN = ("clip", "cosine", "sign_all", "sign_most", "retained_norm", "frame_rotation")


def roll_back(
    home: AggregatorHome, to: str, why: str, tell: Any, now: float | None = None
) -> dict[str, Any]:
    """Seal the next round as a rollback to `to`, such as "round-5" or "release-00010".

    The aggregator must not be running. Returns what was done. Raises ConfigError on another `to` or
    a reason that messages cannot carry, StateError where there is nothing to go back to or no round
    left to do it in.
    """
    if not (why.strip() and why.isascii() and why.isprintable() and len(why) <= MOST):
        what = f"the reason is not one line of ASCII of 1 to {MOST} characters"
        raise ConfigError(what, "give such a line by --reason")
    home.require()
    with sole_owner(home.folder), sole_owner(home.rounds, wait_s=LINGER_S):
        last, checkpoint = home.latest()
        ledger = RoundLedger(home, tell)
        ledger.mend()
        target, source, folder = _source(home, to, last)
        if source.vector.digest != ledger.entry(target).record.vector_digest:
            raise StateError(
                f"{folder} is not what the ledger has of round {target}",
                "name another round or release",
            )
        number, planned = last + 1, home.settings().rounds.rounds
        if number > planned:
            raise StateError(
                f"all {planned} rounds are sealed, and a rollback is one",
                "raise rounds.rounds in federation.toml first, by one more than you want to train",
            )
        whole = folder.parent == home.rounds
        rollback = {"to": target, "from": last, "why": why, "state": "kept" if whole else "anew"}
        at = int(time.time() if now is None else now)
        facts = _facts(home, number, checkpoint, source, {**rollback, "at": at})
        extra = {name: tensors for name, tensors in source.extra.items() if name != STEP}
        journal = Journal(home.journal)
        dropped = _open(journal)
        write_checkpoint(home.round_folder(number), home.recipe(), source.vector, facts, extra)
        ledger.append(number)
        Publisher(home, ledger, tell).release(number, source.vector, facts)
        journal.clear()
        done = {"round": number, **rollback, "vector_digest": source.vector.digest}
        tell("rolled_back", {**done, "dropped": dropped})
    return {**done, "dropped": dropped, "release": f"release-{number:05d}"}


def _source(home: AggregatorHome, to: str, last: int) -> tuple[int, Checkpoint, Path]:
    """The round to go back to, its verified checkpoint, and where that lies.

    A round's own checkpoint has all that the next one starts from; a release, for which it may have
    been pruned, has the consensus alone.
    """
    named = _NAMED.fullmatch(to)
    if named is None:
        raise ConfigError(f"{to!r} names no round", "--to round-5, or --to release-00010")
    number = int(named[2])
    if number >= last:
        raise StateError(
            f"round {number} is not behind the last sealed one, {last}", "name an earlier round"
        )
    folders = [home.round_folder(number), home.releases / f"release-{number:05d}"]
    wanted = folders[1:] if named[1] == "release-" else folders
    for folder in wanted:
        if folder.exists():
            return number, read_checkpoint(folder), folder
    there = ", ".join(map(str, home.sealed_rounds()[-9:-1])) or "none"
    raise StateError(
        f"neither a checkpoint nor a release of round {number} is here", f"of: {there}"
    )


def _facts(
    home: AggregatorHome,
    number: int,
    last: Checkpoint,
    source: Checkpoint,
    rollback: Mapping[str, Any],
) -> dict[str, Any]:
    """What is recorded. Late answers count no more: they go on from what is left behind."""
    standing, before = Standing.of(source), Standing.of(last)
    moments = standing.moments if rollback["state"] == "kept" else None
    records = {node: record.only(()).facts() for node, record in before.records.items()}
    return {
        "federation": home.settings().name,
        "round": number,
        "rounds": home.settings().rounds.rounds,
        "base_digest": last.vector.digest,
        "roster_digest": home.roster_head(),
        "rollback": dict(rollback),
        "contributions": [],
        "absent": [],
        "refused": [],
        "members": {name: {"influence_total": of} for name, of in standing.influence.items()},
        "nodes": records,
        **dict.fromkeys(UNKNOWN),
        "scores": list(standing.scores),
        "moments_digest": moments.digest if moments else "",
        "seconds": 0.0,
    }


def _open(journal: Journal) -> int:
    """How many contributions to the open round are left behind with it."""
    counted: set[tuple[str, int]] = set()
    for event in journal.events():
        match event:
            case Counted(node=node, round=number):
                counted.add((node, number))
            case Lost(node=node, round=number):
                counted.discard((node, number))
    return len(counted)
