"""Where releases come from: the aggregator's service, or a folder such as a USB stick."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from gobelin.client.home import NodeHome
from gobelin.client.membership import Membership
from gobelin.protocols import federation_pb2 as pb
from gobelin.shared.errors import FetchError, StateError
from gobelin.shared.shelf import Announced, AnnouncedFile, Shelf, pieces

MOST = 10_000  # releases that a service may announce
STREAM_S = 60.0  # of one call for a file; what is missing then is asked for by the next


class ReleaseSource(Protocol):
    """Announces releases, which nobody believes yet, and gives their files."""

    def releases(self) -> list[Announced]:
        """All releases there are, newest first."""
        ...

    def read(self, release: Announced, file: AnnouncedFile, offset: int) -> Iterator[bytes]:
        """Bytes of a file from `offset` on; raises UnreachableError where the source is gone."""
        ...


class ServiceSource:
    """The service of the federation this node has joined."""

    def __init__(self, home: NodeHome) -> None:
        self._home = home

    def releases(self) -> list[Announced]:
        """All that are announced; raises StateError where this node has not joined by an invite,
        FetchError on more than any service has."""
        found: list[Announced] = []
        if not self._home.certificate_file.exists():
            raise StateError(
                f"{self._home.folder} has joined no federation by an invite",
                "name a copy of the release: --from FOLDER",
            )
        membership = Membership(self._home)
        membership.renew_if_due()
        with membership.connected() as service:
            while True:
                page = service.ask("Releases", pb.ReleasesRequest(skip=len(found)))
                found += map(_announced, page.releases)
                if len(found) > MOST:
                    raise FetchError(
                        f"more than {MOST:,} releases are announced",
                        "tell the aggregator's operator",
                    )
                if not page.releases or len(found) >= page.length:
                    return sorted(found, key=lambda release: -release.round)

    def read(self, release: Announced, file: AnnouncedFile, offset: int) -> Iterator[bytes]:
        """Bytes of a file from `offset` on."""
        request = pb.ReleaseFileRequest(release=release.name, file=file.name, offset=offset)
        with Membership(self._home).connected() as service:
            for chunk in service.stream("ReleaseFile", request, STREAM_S):
                yield chunk.data


class FolderSource:
    """A folder of releases, or one release: an export, a copy, a USB stick."""

    def __init__(self, folder: Path) -> None:
        self._shelf = Shelf(folder)

    def releases(self) -> list[Announced]:
        """All that lie there; raises StateError, ReleaseError."""
        return self._shelf.releases()

    def read(self, release: Announced, file: AnnouncedFile, offset: int) -> Iterator[bytes]:
        """Bytes of a file from `offset` on."""
        with self._shelf.open(release.name, file.name) as stream:
            yield from pieces(stream, offset)


def _announced(told: Any) -> Announced:
    """What a service says of a release; raises ReleaseError when it can be none."""
    files = [AnnouncedFile(file.name, file.size, file.sha256.hex()) for file in told.files]
    release = Announced(
        name=told.name,
        federation=told.federation,
        round=told.round,
        vector_digest=told.vector_digest,
        issued=told.issued,
        expires=told.expires,
        files=tuple(files),
    )
    release.require_fit()
    return release
