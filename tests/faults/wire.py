"""A TCP proxy on loopback that is a bad network: slow, late, cut, silent, or an HTTP proxy.

    with Wire("127.0.0.1:9092", Faults(bytes_per_second=125_000, reset_share=0.3), seed=1) as wire:
        ...  # nodes connect to wire.address
        wire.partition(); ...; wire.heal()

Faults are drawn from a seed by connection number, so a run meets the same ones again as far as its
connections come in the same order. Bytes are those of TCP, TLS included.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import random
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Self

from gobelin.shared.address import format_address, parse_address

PIECE = 4096  # bytes forwarded at a time
BUFFER = 1 << 16  # bytes that lie on the way, so that who sends feels the rate
RESET = struct.pack("ii", 1, 0)  # SO_LINGER of no time: closing sends a RST


@dataclass(frozen=True)
class Faults:
    """What is wrong with a network."""

    bytes_per_second: float | None = None  # each way, all connections together; None: no limit
    latency_s: float = 0.0  # each way
    reset_share: float = 0.0  # of connections that are reset in the middle
    reset_within: int = 1 << 16  # bytes sent up, at most, by one that is; drawn uniformly
    life: int | None = None  # bytes up after which any connection is closed, so that more are made
    silent_after: int | None = None  # bytes up after which a connection swallows all: half-open


@dataclass
class Traffic:
    """What has passed."""

    connections: int = 0
    resets: int = 0
    up: int = 0  # bytes from whoever connected
    down: int = 0
    asked: list[str] = field(default_factory=list)  # by CONNECT, where it is an HTTP proxy


class Wire:
    """The proxy, in a thread of its own; a context manager."""

    def __init__(
        self,
        target: str = "",
        faults: Faults = Faults(),
        seed: int = 0,
        http: bool = False,
        login: str = "",
    ) -> None:
        """`http`: be an HTTP proxy that knows CONNECT, for `login` ("user:password") if given."""
        self.traffic = Traffic()
        self.faults = faults
        self._target = parse_address(target) if target else ("", 0)
        self._seed, self._http, self._login = seed, http, login
        self._cut = threading.Event()  # nothing passes, and nobody is told
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._due = {"up": 0.0, "down": 0.0}  # when the way is free again
        self._thread = threading.Thread(target=self._run, name="wire", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)

    @property
    def address(self) -> str:
        """Where it listens, host:port."""
        return format_address("127.0.0.1", self._port)

    def partition(self) -> None:
        """Let nothing through from now on; connections stay, and new ones get no answer."""
        self._cut.set()

    def heal(self) -> None:
        """Let everything through again, what waited included."""
        self._cut.clear()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        listener = socket.create_server(("127.0.0.1", 0))
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
        self._port = listener.getsockname()[1]
        start = asyncio.start_server(self._serve, sock=listener, limit=BUFFER)
        self._loop.run_until_complete(start)
        self._ready.set()
        self._loop.run_forever()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number, self.traffic.connections = self.traffic.connections, self.traffic.connections + 1
        draw = random.Random(f"{self._seed} {number}")
        cut = draw.randint(1, self.faults.reset_within)
        left = cut if draw.random() < self.faults.reset_share else None
        far: asyncio.StreamWriter | None = None
        try:
            target = await self._asked(reader, writer) if self._http else self._target
            if target is None:
                return
            back, far = await asyncio.open_connection(*target, limit=BUFFER)
            await asyncio.gather(
                self._pump(reader, far, "up", left), self._pump(back, writer, "down", None)
            )
        except _Reset:
            self.traffic.resets += 1
            for end in filter(None, (writer, far)):
                end.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            for end in filter(None, (writer, far)):
                with contextlib.suppress(Exception):
                    end.transport.abort()

    async def _asked(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> tuple[str, int] | None:
        """Whom a CONNECT asks for; None where it is refused."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        method, target, *_ = head.split()
        shown = base64.b64encode(self._login.encode()).decode()
        if self._login and f"proxy-authorization: basic {shown}".lower() not in head.lower():
            writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")
            await writer.drain()
            return None
        if method != "CONNECT":
            writer.write(b"HTTP/1.1 405 Method Not Allowed\r\n\r\n")
            await writer.drain()
            return None
        self.traffic.asked.append(target)
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        return parse_address(target)

    async def _pump(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, way: str, left: int | None
    ) -> None:
        """Pass bytes on one way; raises _Reset when `left` of them have passed."""
        passed = 0
        while data := await source.read(PIECE):
            await self._until(lambda: not self._cut.is_set())
            silent = self.faults.silent_after
            if silent is not None and way == "up" and passed >= silent:
                await asyncio.Event().wait()  # for ever
            await self._take_time(len(data), way)
            passed += len(data)
            setattr(self.traffic, way, getattr(self.traffic, way) + len(data))
            if left is not None and passed >= left:
                raise _Reset
            sink.write(data)
            await sink.drain()
            if way == "up" and self.faults.life is not None and passed >= self.faults.life:
                raise ConnectionError
        if sink.can_write_eof():
            sink.write_eof()

    async def _take_time(self, size: int, way: str) -> None:
        """Sleep as long as the bytes take on this network."""
        now, rate = time.monotonic(), self.faults.bytes_per_second
        idle = now - self._due[way] > self.faults.latency_s
        self._due[way] = max(now, self._due[way]) + (size / rate if rate is not None else 0.0)
        late = self.faults.latency_s if idle else 0.0  # once for what follows at once
        if self._due[way] + late > now:
            await asyncio.sleep(self._due[way] + late - now)

    @staticmethod
    async def _until(holds: Callable[[], bool]) -> None:
        while not holds():
            await asyncio.sleep(0.02)


@contextlib.contextmanager
def echoing() -> Iterator[str]:
    """The address of a server that says back all it hears."""
    listener = socket.create_server(("127.0.0.1", 0))

    def answer(end: socket.socket) -> None:
        with end, contextlib.suppress(OSError):
            while data := end.recv(BUFFER):
                end.sendall(data)

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=answer, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    with listener:
        yield format_address("127.0.0.1", listener.getsockname()[1])


class _Reset(Exception):
    """A connection's time has come."""
