"""Retention: what of a federation's past stays on the disk, so that it stays bounded.

Ledger, roster log and settings stay for ever: they are small, and all that was promised hangs on
them. Never removed either: what the next round starts from, rounds that may still be answered late,
the newest releases, and every release that the settings keep for ever. A round without its
checkpoint or its archive cannot be replayed any more; `gobelin verify --replay` says from where on
it can.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gobelin.protocols.messages import RoundPlan
from gobelin.server.archive import Archive
from gobelin.server.home import RetentionSettings
from gobelin.server.places import Places
from gobelin.shared.files import bytes_in, remove_folder

NEWEST = 2  # releases that stay whatever the settings say: one may be on its way to somebody


@dataclass(frozen=True)
class Pruning:
    """Folders that may go, and what is lost with them."""

    folders: tuple[Path, ...]
    replayable: int | None = None  # the first round that can be replayed afterwards
    bytes: int = 0

    def facts(self) -> dict[str, object]:
        """As plain data."""
        names = [f"{folder.parent.name}/{folder.name}" for folder in self.folders]
        return {"folders": names, "bytes": self.bytes, "replayable_from": self.replayable}


def plan_pruning(
    home: Places, settings: RetentionSettings, max_staleness: int, tell: bool = False
) -> Pruning:
    """What the settings let go of a home as it is now.

    `tell` looks, too, how many bytes that is and where replays start: it reads every manifest.
    """
    sealed = home.sealed_rounds()
    if not sealed:
        return Pruning(())
    last = sealed[-1]
    gone: list[Path] = []
    kept = sealed
    if settings.checkpoints is not None:
        stays = max(settings.checkpoints, 1 + max_staleness)
        kept = [number for number in sealed if number > last - stays]
        gone += [home.round_folder(number) for number in sealed if number not in kept]
    archive = Archive(home.archive)
    archived = archive.rounds()
    if settings.archives is not None:
        oldest = last - settings.archives
        gone += [archive.folder(number) for number in archived if number <= oldest]
        archived = [number for number in archived if number > oldest]
    gone += _releases(home, settings)
    if not tell:
        return Pruning(tuple(gone))
    return Pruning(tuple(gone), _replayable(home, kept, archived), sum(map(bytes_in, gone)))


def prune(home: Places, settings: RetentionSettings, max_staleness: int) -> Pruning:
    """Remove what the settings let go, each folder whole or not at all."""
    found = plan_pruning(home, settings, max_staleness)
    for folder in found.folders:
        remove_folder(folder)
    return found


def _releases(home: Places, settings: RetentionSettings) -> list[Path]:
    """Releases that may go; those of rounds whose number `every` divides stay for ever."""
    if settings.releases is None:
        return []
    folders = sorted(path for path in home.releases.glob("release-[0-9]*") if path.is_dir())
    rounds = sorted({_number(path) for path in folders})
    newest = set(rounds[-max(settings.releases, NEWEST) :])
    return [
        path for path in folders if _number(path) not in newest and _number(path) % settings.every
    ]


def _replayable(home: Places, kept: Iterable[int], archived: Iterable[int]) -> int | None:
    """The first round that `gobelin verify --replay` reaches, None where it reaches none."""
    rounds, replies = sorted(kept), set(archived)
    first = None
    for number in reversed(rounds[1:]):  # the first kept is where a replay starts
        facts = home.find_facts(number) if number >= min(replies, default=number + 1) else None
        if facts is None:
            break
        if number in replies:
            made_for = {number - row["staleness"] for row in facts.get("contributions", ())}
            if not made_for.issubset(rounds):
                break  # the plan of a late answer goes
            first = number
        elif "rollback" in facts:
            first = number
        elif not _is_masked(facts):
            return None  # a gap is damage
    return first


def _is_masked(facts: Mapping[str, Any]) -> bool:
    """Whether of a round's deltas only the sum was known: a replay believes it, and goes on."""
    return "plan" in facts and RoundPlan.from_bytes(facts["plan"].encode()).sealed


def _number(folder: Path) -> int:
    return int(folder.name.removeprefix("release-"))
