"""The versions of all that lies on a disk or crosses a boundary, and going from one to the next.

A home says in `formats.json` which version each of its formats is of; one without that file is of
the first. What travels alone says it in itself, too. A newer version is refused, by name, before
anything is read or written; an older one is changed when the home is next started, or by `upgrade`.

Every change starts from a copy of the file as it was (`before-upgrade`), which stays. So a kill at
any moment loses nothing: the same command begins again from the copies.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from gobelin.protocols.version import OLDEST, PROTOCOL
from gobelin.shared.errors import (
    AggregatorTooOldError,
    FormatError,
    NodeTooOldError,
    StateError,
)
from gobelin.shared.files import file_atomic, find_json, write_json

FILE = "formats.json"
KEPT = "before-upgrade"
FIRST = 1  # what a home is of that says nothing


@dataclass(frozen=True)
class Format:
    """What is written here, and what is still read."""

    name: str
    current: int
    oldest: int
    says: str  # where its version stands


AGGREGATOR = (
    Format("federation.toml", 2, 1, FILE),  # 2: [retention]
    Format("checkpoint", 1, 1, "manifest.json: format"),
    Format("journal", 1, 1, FILE),
    Format("ledger", 2, 1, FILE),  # 2: rounds that are rollbacks
    Format("roster", 1, 1, FILE),
    Format("archive", 1, 1, FILE),
    Format("release", 1, 1, "manifest.json: format"),
    Format("enrolment", 1, 1, FILE),
    Format("events", 1, 1, FILE),
)
NODE = (
    Format("node.toml", 1, 1, FILE),
    Format("policy.toml", 1, 1, FILE),
    Format("spool", 1, 1, FILE),
    Format("egress ledger", 1, 1, FILE),
    Format("heads and receipts", 1, 1, FILE),
    Format("release", 1, 1, "manifest.json: format"),
    Format("package", 1, 1, "lineage"),
)

Change = Callable[[bytes], bytes]


@dataclass(frozen=True)
class Migration:
    """From one version of a format to the next: which files of a home change, and how."""

    files: str  # pattern, from the home
    change: Change


# By format and the version it goes on from. A step that is not here changes no file: version 2 of
# federation.toml and of the ledger only add, and what was signed stays as it was.
MIGRATIONS: dict[tuple[str, int], Migration] = {}


def formats_of(home: Path, kinds: Sequence[Format]) -> dict[str, int]:
    """The version of each format in a home; raises StateError on a damaged file."""
    file = home / FILE
    known = find_json(file)
    said = {} if known is None else known.get("formats")
    if not isinstance(said, dict) or not all(isinstance(v, int) for v in said.values()):
        raise StateError(f"{file} names no versions", "restore it from a backup")
    return {**{kind.name: FIRST for kind in kinds}, **said}


def require_readable(home: Path, kinds: Sequence[Format]) -> None:
    """Raise FormatError where something in a home is of a version that is not read here."""
    known = {kind.name: kind for kind in kinds}
    for name, found in formats_of(home, kinds).items():
        require_version(known.get(name, Format(name, 0, 0, FILE)), found, str(home))


def require_version(kind: Format, found: int, where: str) -> None:
    """Raise FormatError naming both versions unless `found` is read here."""
    ours = version("gobelin")
    if found > kind.current:
        raise FormatError(
            f"{where}: {kind.name} is of version {found}, gobelin {ours} knows {kind.current}",
            "install the gobelin that has written it (pip install -U gobelin), or restore the "
            "backup of before the upgrade",
        )
    if found < kind.oldest:
        raise FormatError(
            f"{where}: {kind.name} is of version {found}, gobelin {ours} reads {kind.oldest} to "
            f"{kind.current}",
            f"run `upgrade` of a gobelin that reads version {found} first",
        )


def behind(home: Path, kinds: Sequence[Format]) -> dict[str, tuple[int, int]]:
    """The formats of a home that are older than they are written here: from, to."""
    found = formats_of(home, kinds)
    return {
        kind.name: (found[kind.name], kind.current)
        for kind in kinds
        if found[kind.name] < kind.current
    }


def upgrade(home: Path, kinds: Sequence[Format]) -> dict[str, list[str]]:
    """Bring a home to the versions of this gobelin; the caller holds its lock.

    Returns the files that each format's change has rewritten, from the home. Raises FormatError.
    """
    require_readable(home, kinds)
    done: dict[str, list[str]] = {}
    for name, (old, new) in behind(home, kinds).items():
        done[name] = _migrate(home, name, old, new)
    current = {kind.name: kind.current for kind in kinds}
    told = {"formats": current, "gobelin": version("gobelin")}
    if done or not (home / FILE).exists():
        write_json(home / FILE, told)
    return done


def _migrate(home: Path, name: str, old: int, new: int) -> list[str]:
    """Rewrite a format's files from their copies, step after step."""
    steps = [step for at in range(old, new) if (step := MIGRATIONS.get((name, at)))]
    changed: list[str] = []
    kept = home / KEPT / f"{name.replace(' ', '-')}-{old}"
    for file in sorted({path for step in steps for path in home.glob(step.files)}):
        inner = file.relative_to(home)
        copy = kept / inner
        if not copy.exists():
            with file_atomic(copy, mode=file.stat().st_mode & 0o777) as tmp:
                shutil.copyfile(file, tmp)
        data = copy.read_bytes()
        for step in steps:
            data = step.change(data) if inner.match(step.files) else data
        with file_atomic(file, mode=file.stat().st_mode & 0o777) as tmp:
            tmp.write_bytes(data)
        changed.append(str(inner))
    return changed


def stamp(home: Path, kinds: Sequence[Format]) -> None:
    """Say in a home that is being written that it is of the current versions."""
    formats: Mapping[str, int] = {kind.name: kind.current for kind in kinds}
    write_json(home / FILE, {"formats": dict(formats), "gobelin": version("gobelin")})


def require_plan(found: int) -> None:
    """On a node: raise unless plans of this protocol are understood, and say who must upgrade."""
    if found > PROTOCOL:
        raise NodeTooOldError(
            f"the aggregator speaks protocol {found}, this node {OLDEST} to {PROTOCOL}",
            "upgrade this node (pip install -U gobelin) and start it again; it loses nothing",
        )
    if found < OLDEST:
        raise AggregatorTooOldError(
            f"the aggregator speaks protocol {found}, this node {OLDEST} to {PROTOCOL}",
            "ask the aggregator's operator to upgrade, or run an older gobelin here",
        )


def refusal_of_node(found: int) -> str:
    """On the aggregator: why a node of this protocol cannot take part, "" where it can."""
    told = f"the node speaks protocol {found}, the aggregator {PROTOCOL}"
    if found < PROTOCOL:
        return f"{told}: upgrade the node (pip install -U gobelin)"
    if found > PROTOCOL:
        return f"{told}: upgrade the aggregator, or install its version of gobelin on the node"
    return ""
