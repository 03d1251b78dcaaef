"""Watches what leaves the process it is in. For tests: production has no hooks.

Python imports a `sitecustomize` it finds on its path before anything else. This one writes, into
the folder `$GOBELIN_GUARD`: the bytes of every request that gRPC serializes, one file a request
(`request-PID-N-METHOD`), and a line an audit event that could be a way out (`audit`): sockets,
look-ups of names, other programs. It knows nothing of the product it watches.
"""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

FOLDER = Path(os.environ["GOBELIN_GUARD"])
WAYS_OUT = ("socket.connect", "socket.sendto", "socket.sendmsg", "socket.getaddrinfo")
WAYS_OUT += ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "urllib.Request")
numbers = itertools.count()


def audit(event: str, arguments: tuple[Any, ...]) -> None:
    if event in WAYS_OUT:
        with (FOLDER / "audit").open("a") as file:
            file.write(f"{event} {arguments[1:] if event == 'socket.connect' else arguments}\n")


def watch_grpc() -> None:
    import grpc._channel as channel

    for kind in ("unary_unary", "unary_stream", "stream_unary", "stream_stream"):
        setattr(channel.Channel, kind, watched(getattr(channel.Channel, kind)))


def watched(make: Callable[..., Any]) -> Callable[..., Any]:
    """The maker of a callable, whose serializer notes what it makes."""

    def call(self: Any, method: str, request_serializer: Any = None, *more: Any, **how: Any) -> Any:
        def serialize(message: Any) -> bytes:
            data: bytes = request_serializer(message)
            name = method.rpartition("/")[2]
            (FOLDER / f"request-{os.getpid()}-{next(numbers):06d}-{name}").write_bytes(data)
            return data

        return make(self, method, serialize, *more, **how)

    return call


sys.addaudithook(audit)
if Path(sys.argv[0]).name == "gobelin":
    watch_grpc()
