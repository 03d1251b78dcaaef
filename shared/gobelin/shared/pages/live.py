"""Live pages: a watcher that looks again and again, and server-sent events when something changed.

Server-sent events are plain HTTP (WHATWG HTML §9.2): a line of text when there is news. What is new
the page asks for itself, so an event carries no data.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any, Generic, TypeVar

from fastapi import Request
from fastapi.responses import StreamingResponse

from gobelin.shared.errors import CrowdError, GobelinError, ReadingError

EVERY_S = 2.0  # between two looks
BEAT_S = 15.0  # a comment is sent this often, so that a page that is gone is noticed
FIRST_S = 0.5  # a person waits for the first look; then is told that the home is being read
STREAMS = 16  # pages that are open at a time; below what the server answers at a time
log = logging.getLogger(__name__)

Seen = TypeVar("Seen")


class Watcher(Generic[Seen]):
    """Looks in a thread while somebody listens, and at once when a page is asked for.

    `look` gives what is shown; `key` tells whether it is news. Programs are answered by `now`,
    which waits for a look, people by `soon`, which waits no longer than a moment for the first.
    """

    def __init__(self, look: Callable[[], Seen], key: Callable[[Seen], object]) -> None:
        self._look = look
        self._key = key
        self._lock = asyncio.Lock()
        self._news = asyncio.Condition()
        self._seen: Seen | None = None
        self._seen_at = float("-inf")
        self._first: asyncio.Task[Seen] | None = None
        self._told: object = None
        self.version = 0
        self._streams = 0
        self._task: asyncio.Task[None] | None = None

    async def now(self, fresh_s: float = 1.0) -> Seen:
        """What there is to see, at most `fresh_s` seconds old."""
        async with self._lock:
            clock = asyncio.get_running_loop().time
            if self._seen is None or clock() - self._seen_at > fresh_s:
                self._seen = await asyncio.to_thread(self._look)
                self._seen_at = clock()
                key = self._key(self._seen)
                if key != self._told:
                    self._told, self.version = key, self.version + 1
                    async with self._news:
                        self._news.notify_all()
            return self._seen

    async def soon(self) -> Seen:
        """The same for a person: raises ReadingError while the first look goes on for long."""
        if self._seen is None:
            if self._first is None or self._first.done():
                self._first = asyncio.create_task(self.now())
            try:
                await asyncio.wait_for(asyncio.shield(self._first), FIRST_S)
            except TimeoutError:
                raise ReadingError("reading the home", "ask again in a moment") from None
        return await self.now()

    async def aside(self, read: Callable[..., Any], *of: Any) -> Any:
        """What `read` gives, in a thread, and never while there is a look."""
        async with self._lock:
            return await asyncio.to_thread(read, *of)

    async def _watch(self) -> None:
        while self._streams:
            # a file is being replaced or mended: the next look sees it, who asks is told meanwhile
            with contextlib.suppress(OSError, GobelinError):
                await self.now()
            await asyncio.sleep(EVERY_S)
        self._task = None

    def stream(self, request: Request) -> StreamingResponse:
        """The events as one answer that goes on; raises CrowdError where too many listen."""
        if self._streams >= STREAMS:
            raise CrowdError(f"{STREAMS} pages are open", "close one, or reload this one by hand")
        return StreamingResponse(
            self._events(request),
            media_type="text/event-stream",
            headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
        )

    async def _events(self, request: Request) -> AsyncIterator[str]:
        self._streams += 1
        try:
            if self._task is None or self._task.done():
                self._task = asyncio.create_task(self._watch())
            told = self.version
            yield f"retry: 3000\nevent: hello\ndata: {told}\n\n"
            while not await request.is_disconnected():
                async with self._news:
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self._news.wait(), BEAT_S)
                if self.version == told:
                    yield ": still here\n\n"
                    continue
                told = self.version
                yield f"event: changed\ndata: {told}\n\n"
        finally:
            self._streams -= 1
