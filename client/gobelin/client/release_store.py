"""Releases in a home: fetched piece by piece, verified, and only then in their final place.

    fetching/<digest>/NAME.part → NAME → (all there: verified) → releases/release-00010

What was fetched stays through a kill and is not fetched again. The statement and the signatures
come first: a release that is not the aggregator's, or older than one taken before, costs no more
than them. What a file is to be, in bytes and digest, is known before its first byte.
"""

from __future__ import annotations

import errno
import hashlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gobelin.client.home import NodeHome
from gobelin.client.release_source import ReleaseSource
from gobelin.client.service import Patience, Say
from gobelin.protocols.ledger import ReleaseStatement
from gobelin.shared.errors import (
    CheckpointError,
    FetchError,
    GobelinError,
    LedgerError,
    SignatureError,
    StateError,
    TwoHistoriesError,
    UnreachableError,
)
from gobelin.shared.files import file_digest, settle_folder
from gobelin.shared.locks import sole_owner
from gobelin.shared.release import Release, Watch, verify_release
from gobelin.shared.release.bundle import signed_digests
from gobelin.shared.release.release import KEY_FILE, read_statement
from gobelin.shared.shelf import (
    MAX_GB,
    SIGNATURE,
    STATEMENT,
    Announced,
    AnnouncedFile,
    Shelf,
)
from gobelin.shared.signing import find_signing_key

FIRST = (STATEMENT, SIGNATURE, KEY_FILE)  # of a release's files: what says whose it is
MAX_FIRST = 4 << 20  # bytes of each of them
ROOM = 16 << 20  # bytes that stay free on the disk
PART = ".part"
AGAIN = "the same command goes on"

# What a source has said or sent that is kept by nobody.
REFUSED = (FetchError, LedgerError, SignatureError, TwoHistoriesError, CheckpointError)

Progress = Callable[[int, int], None]  # bytes that are there, bytes of the release


@dataclass(frozen=True)
class Got:
    """A release that lies in the home and holds."""

    release: Release
    folder: Path
    fetched: int  # bytes that came now; 0 where it was there

    def facts(self) -> dict[str, Any]:
        """As plain data."""
        return {**self.release.facts(), "folder": str(self.folder), "fetched": self.fetched}


class ReleaseStore:
    """The releases of one home, all of one aggregator."""

    def __init__(self, home: NodeHome, key: Path | None = None) -> None:
        """`key` is a ca.pem; the home's own if None. Raises StateError where there is neither."""
        file = key or home.ca_file
        try:
            self._public = find_signing_key(file.read_bytes(), str(file))
        except OSError:
            raise StateError(
                f"{file} cannot be read, so no release can be verified",
                "name the ca.pem you were given: --key ca.pem",
            ) from None
        self._home = home
        self._watch = Watch(home.newest_file)

    def folder_of(self, number: int) -> Path:
        """Where the release of a round lies once it is there."""
        return self._home.releases / f"release-{number:05d}"

    def verify(self, folder: Path, *, older: bool) -> Release:
        """A release that holds, and is no older than the newest taken unless it may be.

        Raises the errors of `verify_release` and `Watch.check`. Nothing is changed.
        """
        release = verify_release(folder, self._public)
        if not older:
            self._watch.check(release.statement)
        return release

    def get(
        self,
        source: ReleaseSource,
        number: int | None,
        *,
        older: bool = False,
        max_gb: float = MAX_GB,
        give_up_s: float = 60.0,
        say: Say = lambda line: None,
        progress: Progress = lambda there, of: None,
    ) -> Got:
        """The release of a round, or the newest, fetched where it is not here, and remembered.

        Raises FetchError when what comes is not what was announced or has no room, and as
        `verify` does. Whatever is raised, no release is there that does not hold. One that a
        `prune` removes meanwhile is not here.
        """
        if number is not None and (got := self._cached(number, older)):
            return got
        announced = _chosen(source.releases(), number)
        folder = self.folder_of(announced.round)
        if self._is_here(announced) and (got := self._cached(announced.round, older)):
            return got
        if announced.size > max_gb * 1e9:
            what = f"{announced.name} has {announced.size / 1e9:.1f} GB, allowed are {max_gb:g}"
            raise FetchError(what, "allow more by --max-gb")
        with sole_owner(self._home.fetching):
            if self._is_here(announced) and (got := self._cached(announced.round, older)):
                return got  # by another command, which we have waited for
            stage = self._stage(announced)
            fetching = Fetching(announced, source, stage, give_up_s, say, progress)
            missing = announced.size - fetching.there
            fetching.run(lambda: self._require_ours(announced, stage, older))
            try:
                release = self.verify(stage, older=older)
            except REFUSED:
                shutil.rmtree(stage)
                raise
            folder.parent.mkdir(exist_ok=True)
            settle_folder(stage, folder)
        return self._taken(Got(release, folder, missing), older)

    def _is_here(self, announced: Announced) -> bool:
        known = self._known(announced.round)
        return known is not None and known.vector_digest == announced.vector_digest

    def _known(self, number: int) -> ReleaseStatement | None:
        """What is said of the release of a round; None where it is not here, or has just gone."""
        folder = self.folder_of(number)
        try:
            return self._statement(folder)
        except LedgerError:
            if folder.exists():
                raise
            return None

    def _cached(self, number: int, older: bool) -> Got | None:
        """A release that was fetched before, if it still holds; None as `_known`."""
        folder = self.folder_of(number)
        if not folder.exists():
            return None
        try:
            release = self.verify(folder, older=older)
        except (LedgerError, SignatureError, CheckpointError, FileNotFoundError) as error:
            if not folder.exists():
                return None
            if isinstance(error, GobelinError):
                error.remedy = f"remove {folder}, then get it again"
            raise
        return self._taken(Got(release, folder, 0), older)

    def _taken(self, got: Got, older: bool) -> Got:
        if not older:
            self._watch.take(got.release.statement)
        return got

    def _statement(self, folder: Path) -> ReleaseStatement:
        return read_statement(folder / STATEMENT, self._public)

    def _stage(self, announced: Announced) -> Path:
        """The folder a release is fetched into; what was begun of others is removed."""
        told = "\n".join(f"{file.name} {file.size} {file.digest}" for file in announced.files)
        name = hashlib.sha256(f"{announced.name}\n{told}".encode()).hexdigest()[:32]
        for path in self._home.fetching.iterdir():
            if path.is_dir() and path.name != name:
                shutil.rmtree(path)
        stage = self._home.fetching / name
        stage.mkdir(exist_ok=True)
        return stage

    def _require_ours(self, announced: Announced, stage: Path, older: bool) -> None:
        """Raise unless what came first is signed, new enough, and signs what was announced."""
        statement = self._statement(stage)
        if not older:
            self._watch.check(statement)
        known = self._known(statement.round)
        if known is not None and known.vector_digest != statement.vector_digest:
            here = self.folder_of(statement.round)
            raise TwoHistoriesError(
                f"two histories: {announced.name} is another model than the one in {here}",
                "stop, and show both to the other members",
            )
        if (statement.round, statement.federation) != (announced.round, announced.federation):
            raise FetchError(
                f"{announced.name} was announced as round {announced.round} of "
                f"{announced.federation}, and is round {statement.round} of {statement.federation}",
                "ask the aggregator's operator",
            )
        signed = signed_digests(stage / SIGNATURE, statement.key)
        told = {file.name: file.digest for file in announced.files if file.name != SIGNATURE}
        if signed != told:
            differ = sorted(n for n in signed.keys() | told.keys() if signed.get(n) != told.get(n))
            raise FetchError(
                f"{announced.name}: {differ[0]} was announced with another digest than is signed",
                "do not use it; ask the aggregator's operator",
            )


def cached_in(home: NodeHome) -> list[Announced]:
    """The releases in a home, newest first; looked at, not verified."""
    return Shelf(home.releases).releases() if home.releases.is_dir() else []


class Fetching:
    """One release on its way into a folder."""

    def __init__(
        self,
        announced: Announced,
        source: ReleaseSource,
        stage: Path,
        give_up_s: float,
        say: Say,
        progress: Progress,
    ) -> None:
        self._announced, self._source, self._stage = announced, source, stage
        self._give_up_s, self._say, self._progress = give_up_s, say, progress

    @property
    def there(self) -> int:
        """Bytes that have come so far."""
        paths = [self._stage / name for file in self._announced.files for name in _names(file)]
        return sum(path.stat().st_size for path in paths if path.exists())

    def run(self, look: Callable[[], None]) -> None:
        """Fetch what is missing; `look` may raise when what says whose it is has come.

        Raises FetchError, and as `look`; nothing is kept then, nor where the disk is full.
        """
        try:
            first = [self._announced.file(name) for name in FIRST]
            if any(file.size > MAX_FIRST for file in first):
                raise FetchError(
                    f"{self._announced.name} has a statement of many bytes",
                    "tell the aggregator's operator",
                )
            self._require_room()
            for file in first:
                self._fetch(file)
            look()
            for file in self._announced.files:
                self._fetch(file)
        except UnreachableError as error:
            raise UnreachableError(error.what, f"{error.remedy}; {AGAIN}") from None
        except REFUSED:
            shutil.rmtree(self._stage)
            raise
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise
            shutil.rmtree(self._stage)
            raise self._full() from None

    def _require_room(self) -> None:
        needed = self._announced.size - self.there + ROOM
        if shutil.disk_usage(self._stage).free < needed:
            raise self._full()

    def _full(self) -> FetchError:
        return FetchError(
            f"no room for {self._announced.name}: it has {self._announced.size / 1e6:,.1f} MB",
            f"free some on the disk of {self._stage.parent}; nothing was kept of it",
        )

    def _fetch(self, file: AnnouncedFile) -> None:
        """Have one file, whole and with its digest; what a power cut has spoilt comes again."""
        whole, part = (self._stage / name for name in _names(file))
        if whole.exists():
            return
        begun = part.exists()
        self._complete(file, part)
        if begun and not _is(file, part):
            part.unlink()
            self._complete(file, part)
        if not _is(file, part):
            raise FetchError(f"{file.name} is not what was announced", "do not use it; ask again")
        part.replace(whole)

    def _complete(self, file: AnnouncedFile, part: Path) -> None:
        """Have as many bytes as were announced; raises UnreachableError where no more come."""
        patience = Patience(self._give_up_s, self._say)
        part.touch()
        while (before := part.stat().st_size) < file.size:
            try:
                self._append(file, part)
                lost = UnreachableError(f"{file.name} breaks off", "try again later")
            except UnreachableError as error:
                lost = error
            if part.stat().st_size > before:
                patience = Patience(self._give_up_s, self._say)  # slow is not silent
            else:
                patience.wait(lost)

    def _append(self, file: AnnouncedFile, part: Path) -> None:
        """Add what the source gives to what is there; raises FetchError on more than announced."""
        with part.open("ab") as stream:
            size = stream.tell()
            for data in self._source.read(self._announced, file, size):
                size += len(data)
                if size > file.size:
                    what = f"{file.name} has more than the {file.size:,} bytes announced"
                    raise FetchError(what, "do not use it; ask the aggregator's operator")
                stream.write(data)
                self._progress(self.there, self._announced.size)


def _names(file: AnnouncedFile) -> tuple[str, str]:
    """Of a file that is whole, and of what has come of it."""
    return file.name, file.name + PART


def _is(file: AnnouncedFile, path: Path) -> bool:
    return path.stat().st_size == file.size and file_digest(path) == file.digest


def _chosen(releases: list[Announced], number: int | None) -> Announced:
    """The release of a round, or the newest."""
    for release in releases:
        if number in (None, release.round):
            return release
    if not releases:
        raise FetchError("no release has been published yet", "come again later")
    rounds = ", ".join(str(release.round) for release in releases[:10])
    raise FetchError(f"there is no release of round {number}", f"there are those of {rounds}")
