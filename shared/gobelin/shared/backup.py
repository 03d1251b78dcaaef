"""Backups of a home: what files there were, by digest, and each content once.

    objects/DIGEST            a file's bytes; what the last backup had is not copied again
    snapshot-00012.json       which files there were, and what of the home they say

A snapshot is written last, so a backup that was cut off is none and the one before still holds.
Keys are in it encrypted under a passphrase (Scrypt, RFC 7914, and AES-256-GCM by `cryptography`),
or not at all. Files of a home that is in use are copied as they are found; who calls says which
belong together, and drops what has gone meanwhile.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tarfile
import tempfile
import time
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from gobelin.shared.errors import ConfigError, InUseError, StateError
from gobelin.shared.files import (
    PRIVATE,
    below,
    file_atomic,
    file_digest,
    folder_atomic,
    is_unfinished,
    read_json,
    write_atomic,
    write_json,
)
from gobelin.shared.formats import Format, require_version
from gobelin.shared.locks import change, is_lock, is_owned

FORMAT = Format("backup", 1, 1, "snapshot: format")
COST = 1 << 15  # n of Scrypt, with r = 8: 32 MiB
TAR = ".tar"


@dataclass(frozen=True)
class Snapshot:
    """What a backup has of a home at one moment."""

    kind: str  # aggregator or node
    made: int  # seconds since 1970
    state: Mapping[str, Any]  # what the home says of itself
    files: Mapping[str, Mapping[str, Any]]  # by path: sha256, bytes, mode, mtime_ns
    keys: Mapping[str, Any] | None  # encrypted; None: left out

    def facts(self) -> dict[str, Any]:
        """As plain data."""
        told = {"kind": self.kind, "made": self.made, "state": dict(self.state)}
        more = {"files": dict(self.files), "keys": self.keys, "gobelin": version("gobelin")}
        return {"format": FORMAT.current, **told, **more}


def back_up(
    home: Path,
    to: Path,
    kind: str,
    state: Mapping[str, Any],
    wanted: Iterable[Path],
    keys: Iterable[Path],
    passphrase: str | None,
) -> dict[str, Any]:
    """Write a snapshot of the `wanted` files, and verify it; returns what was done.

    `to` is a folder, which later backups go on in, or a new .tar file. Folders under `wanted` are
    dropped whole where a file of them has gone meanwhile. Raises StateError on a damaged backup.
    """
    if to.suffix == TAR:
        return _to_tar(home, to, kind, state, wanted, keys, passphrase)
    before = latest(to) if snapshots(to) else None
    if before is not None and before.kind != kind:
        raise StateError(f"{to} is a backup of a home of {before.kind}", "choose another --to")
    known = dict(before.files) if before is not None else {}
    files: dict[str, dict[str, Any]] = {}
    copied = 0
    for path in wanted:
        try:
            found, size = _keep(home, path, to, known)
        except FileNotFoundError:
            gone = path.parent.relative_to(home)
            files = {name: of for name, of in files.items() if Path(name).parent != gone}
            continue
        files[str(path.relative_to(home))] = found
        copied += size
    files = _whole(files, wanted, home)
    locked = None if passphrase is None else _lock(home, keys, passphrase)
    made = Snapshot(kind, int(time.time()), state, files, locked)
    with change(to / "snapshot"):  # another backup may be ending there
        number = 1 + max(snapshots(to), default=0)
        file = to / f"snapshot-{number:05d}.json"
        write_json(file, made.facts(), PRIVATE)
    check(to, made)
    told = {"to": str(to), "snapshot": file.name, "files": len(files), "copied_bytes": copied}
    return {**told, "keys": locked is not None, "state": dict(state)}


def _whole(
    files: dict[str, dict[str, Any]], wanted: Iterable[Path], home: Path
) -> dict[str, dict[str, Any]]:
    """Without folders that have a manifest no more: they were being removed."""
    folders = {str(Path(name).parent) for name in files if "/" in name}
    lost = {
        folder
        for folder in folders
        if any((home / folder).name.startswith(kind) for kind in ("round-", "release-"))
        and not (home / folder).exists()
    }
    return {name: of for name, of in files.items() if str(Path(name).parent) not in lost}


def _keep(
    home: Path, path: Path, to: Path, known: Mapping[str, Mapping[str, Any]]
) -> tuple[dict[str, Any], int]:
    """What is recorded of a file, its content in the store, and how many bytes that took."""
    stat = path.stat()
    name = str(path.relative_to(home))
    was = known.get(name, {})
    same = (was.get("bytes"), was.get("mtime_ns")) == (stat.st_size, stat.st_mtime_ns)
    if same and _object(to, was["sha256"]).exists():
        return dict(was), 0
    digest, size = hashlib.sha256(), 0
    (to / "objects").mkdir(parents=True, exist_ok=True)
    with path.open("rb") as source, tempfile.NamedTemporaryFile(dir=to / "objects") as tmp:
        while piece := source.read(1 << 20):
            digest.update(piece)
            tmp.write(piece)
            size += len(piece)
        tmp.flush()
        target = _object(to, digest.hexdigest())
        if not target.exists():
            with file_atomic(target, PRIVATE) as other:
                shutil.copyfile(tmp.name, other)
    told = {"sha256": digest.hexdigest(), "bytes": size, "mode": stat.st_mode & 0o777}
    return {**told, "mtime_ns": stat.st_mtime_ns}, size


def _object(store: Path, digest: str) -> Path:
    return store / "objects" / digest[:2] / digest


def snapshots(store: Path) -> list[int]:
    """Numbers of the snapshots in a backup, ascending."""
    names = (path.stem.removeprefix("snapshot-") for path in store.glob("snapshot-[0-9]*.json"))
    return sorted(map(int, names))


def latest(store: Path, number: int | None = None) -> Snapshot:
    """A snapshot, the newest unless told; raises StateError where there is none."""
    there = snapshots(store)
    wanted = there[-1] if number is None and there else number
    if wanted not in there:
        named = "" if number is None else f" {number}"
        raise StateError(f"{store} holds no backup{named}", "name the folder or .tar of one")
    facts = read_json(store / f"snapshot-{wanted:05d}.json")
    try:
        require_version(FORMAT, int(facts["format"]), str(store))
        return Snapshot(
            *(facts["kind"], int(facts["made"]), facts["state"], facts["files"], facts["keys"])
        )
    except (KeyError, TypeError, ValueError):
        raise StateError(f"{store}: snapshot {wanted} is none", "use an earlier one") from None


def check(store: Path, snapshot: Snapshot) -> None:
    """Read all of a snapshot again; raises StateError on a byte that is not as it was."""
    for name, of in snapshot.files.items():
        file = _object(store, of["sha256"])
        if not file.exists() or file_digest(file) != of["sha256"]:
            raise StateError(f"{store}: what it has of {name} is damaged", "back up anew elsewhere")


def restore(store: Path, snapshot: Snapshot, folder: Path, passphrase: str | None) -> None:
    """Write a snapshot's files into a folder that is being filled, each checked by its digest.

    Raises StateError on damage, ConfigError on another passphrase than the keys' own.
    """
    for name, of in snapshot.files.items():
        target = folder / name
        if not target.resolve().is_relative_to(folder.resolve()):
            raise StateError(f"{store} names a file outside of its home", "it is no backup of ours")
        with file_atomic(target, int(of["mode"]), flush=False) as tmp:
            try:
                shutil.copyfile(_object(store, of["sha256"]), tmp)
            except FileNotFoundError:
                raise StateError(f"{store}: what it has of {name} is gone", "use another") from None
            if file_digest(tmp) != of["sha256"]:
                raise StateError(f"{store}: what it has of {name} is damaged", "use another")
    if passphrase is not None:
        for name, data in _unlock(snapshot, passphrase).items():
            write_atomic(folder / name, data, PRIVATE)


@contextmanager
def opened(path: Path) -> Iterator[Path]:
    """The folder of a backup, which a .tar is taken apart into; raises StateError."""
    if path.is_dir():
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="gobelin-backup-") as folder:
        try:
            with tarfile.open(path) as tar:
                tar.extractall(folder, filter="data")
        except (OSError, tarfile.TarError):
            raise StateError(f"{path} is no backup", "name the folder or .tar of one") from None
        yield Path(folder)


def files_under(home: Path, *names: str, but: Callable[[Path], bool]) -> list[Path]:
    """Files of a home under these names, in order, without what is unfinished or a lock."""
    found: list[Path] = []
    for name in names:
        place = home / name
        inside = sorted(below(place)) if place.is_dir() else [place]
        found += [path for path in inside if path.is_file() and not but(path)]
    return [path for path in found if not _passing(home, path)]


def _passing(home: Path, path: Path) -> bool:
    parts = [path, *path.relative_to(home).parents]
    return is_lock(path) or any(is_unfinished(Path(part.name)) for part in parts if part.name)


def _lock(home: Path, keys: Iterable[Path], passphrase: str) -> dict[str, Any]:
    found = {
        str(path.relative_to(home)): b64encode(path.read_bytes()).decode()
        for path in keys
        if path.exists()
    }
    salt, nonce = os.urandom(16), os.urandom(12)
    data = AESGCM(_key(passphrase, salt, COST)).encrypt(nonce, json.dumps(found).encode(), b"keys")
    told = {"salt": salt, "nonce": nonce, "data": data}
    return {"n": COST, **{name: b64encode(value).decode() for name, value in told.items()}}


def _unlock(snapshot: Snapshot, passphrase: str) -> dict[str, bytes]:
    if snapshot.keys is None:
        raise ConfigError("this backup has no keys", "restore it with --no-keys")
    try:
        salt, nonce, data = (b64decode(snapshot.keys[name]) for name in ("salt", "nonce", "data"))
        key = _key(passphrase, salt, int(snapshot.keys["n"]))
        found = json.loads(AESGCM(key).decrypt(nonce, data, b"keys"))
    except InvalidTag:
        raise ConfigError(
            "the passphrase does not open the keys", "give the one it was backed up under"
        ) from None
    return {name: b64decode(text) for name, text in found.items()}


def _key(passphrase: str, salt: bytes, cost: int) -> bytes:
    return Scrypt(salt=salt, length=32, n=min(cost, 1 << 20), r=8, p=1).derive(passphrase.encode())


def _to_tar(home: Path, to: Path, *parts: Any) -> dict[str, Any]:
    if to.exists():
        raise StateError(f"{to} is there already", "choose another --to")
    with tempfile.TemporaryDirectory(prefix=".backup-", dir=to.absolute().parent) as folder:
        store = Path(folder)
        told = back_up(home, store, *parts)
        with file_atomic(to, PRIVATE) as tmp, tarfile.open(tmp, "w") as tar:
            tar.add(store, arcname=".", filter=lambda of: None if is_lock(Path(of.name)) else of)
    return {**told, "to": str(to)}


def read_passphrase(file: Path | None, no_keys: bool) -> str | None:
    """The first line of a file, or None where keys are left out; raises ConfigError on neither."""
    if no_keys:
        return None
    if file is None:
        raise ConfigError(
            "keys are backed up under a passphrase", "give --passphrase-file, or --no-keys"
        )
    try:
        found = file.read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        raise ConfigError(f"{file} cannot be read", "check the path and its permissions") from None
    if not found or len(found[0]) < 8:
        raise ConfigError(
            f"{file} holds no passphrase of 8 characters or more", "write one into its first line"
        )
    return found[0]


@contextmanager
def restored(
    path: Path, home: Path, kind: str, passphrase: str | None, number: int | None = None
) -> Iterator[tuple[Path, Snapshot]]:
    """A snapshot's files in a folder that becomes `home` on a clean exit only.

    Raises StateError where a home is in the way, and where the backup is damaged or of another
    `kind`; InUseError on a home in use; ConfigError on another passphrase than the keys' own.
    """
    if is_owned(home):
        raise InUseError(f"the {kind} is running on {home}", "stop it; restore elsewhere")
    if home.exists() and any(home.iterdir()):
        raise StateError(
            f"{home} is not empty", "restore into a new --home; nothing is overwritten"
        )
    with opened(path) as store:
        snapshot = latest(store, number)
        if snapshot.kind != kind:
            what = f"{path} is a backup of a {snapshot.kind}"
            raise StateError(what, f"gobelin {snapshot.kind} restore")
        check(store, snapshot)
        with folder_atomic(home, new=True) as tmp:
            restore(store, snapshot, tmp, passphrase)
            yield tmp, snapshot
