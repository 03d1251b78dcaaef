"""Releases over our service: what there is, and files from an offset on.

A file travels in one stream, which holds a thread while it lasts: so there are few of them, a node
has one, whose next ends the one before, and each is ended after a while. Whoever fetches goes on
from where that was.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import grpc

from gobelin.protocols import federation_pb2 as pb
from gobelin.shared.errors import GobelinError
from gobelin.shared.shelf import Announced, Shelf, pieces

PAGE = 50  # releases in one answer
STREAMS = 4  # at a time
STREAM_S = 120.0  # after which one is ended


class ReleaseDesk:
    """Hands out what lies on the aggregator's shelf; all state is on disk."""

    def __init__(self, folder: Path, streams: int = STREAMS, stream_s: float = STREAM_S) -> None:
        """`folder` is where releases are published; it may not be there yet."""
        self._folder = folder
        self._shelf = Shelf(folder)
        self._streams = streams
        self._stream_s = stream_s
        self._open: dict[str, grpc.ServicerContext] = {}
        self._lock = threading.Lock()

    def page(self, request: pb.ReleasesRequest) -> pb.ReleasesReply:
        """Releases, newest first, from one on."""
        releases = self._shelf.releases() if self._folder.is_dir() else []
        shown = releases[request.skip : request.skip + PAGE]
        return pb.ReleasesReply(releases=map(_told, shown), length=len(releases))

    def stream(
        self, node: str, request: pb.ReleaseFileRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.ReleaseChunk]:
        """A file from an offset on, to the node that calls."""
        try:
            file = self._shelf.open(request.release, request.file)
        except (GobelinError, OSError):
            _end(context, grpc.StatusCode.NOT_FOUND, "there is no such file of a release")
        with file:
            self._take_turn(node, context)
            for data in pieces(file, request.offset):
                yield pb.ReleaseChunk(data=data)

    def _take_turn(self, node: str, context: grpc.ServicerContext) -> None:
        """One of the streams, until the call ends; a crowd is turned away."""
        with self._lock:
            earlier = self._open.pop(node, None)
            crowded = len(self._open) >= self._streams
            if not crowded:
                self._open[node] = context
        if earlier is not None:
            earlier.cancel()
        if crowded:
            _end(context, grpc.StatusCode.UNAVAILABLE, "others are being sent releases")
        timer = threading.Timer(self._stream_s, context.cancel)
        timer.daemon = True

        def over() -> None:
            timer.cancel()
            with self._lock:
                if self._open.get(node) is context:
                    del self._open[node]

        timer.start()
        if not context.add_callback(over):
            over()


def _told(release: Announced) -> pb.AnnouncedRelease:
    files = [
        pb.AnnouncedFile(name=file.name, size=file.size, sha256=bytes.fromhex(file.digest))
        for file in release.files
    ]
    return pb.AnnouncedRelease(
        name=release.name,
        federation=release.federation,
        round=release.round,
        vector_digest=release.vector_digest,
        issued=release.issued,
        expires=release.expires,
        files=files,
    )


def _end(context: grpc.ServicerContext, code: grpc.StatusCode, what: str) -> NoReturn:
    context.abort(code, what)
    raise AssertionError  # never: abort has raised
