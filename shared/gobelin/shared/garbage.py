"""What a process that runs for months does not need any more, and would keep.

Garbage in cycles: Python's collector looks through old objects only once a quarter as many have
grown old since. A process that has imported torch or Flower has some hundred thousand of them, and
of what a round leaves in cycles (httpx, gRPC, ctypes, the encoder of JSON) a few dozen grow old:
thousands of rounds go by, and the process grows by kilobytes with each. What has been there since
its start, modules and classes, is not looked through again.

And pages: glibc gives back the end of a heap alone, however much is free below it.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import threading
from collections.abc import Iterator

EVERY_S = 60.0


@contextlib.contextmanager
def collected(every_s: float = EVERY_S) -> Iterator[None]:
    """Collect every so many seconds, in a thread, within a block."""
    over = threading.Event()

    def work() -> None:
        while not over.wait(every_s):
            collect()

    thread = threading.Thread(target=work, name="garbage", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def collect() -> None:
    """Let go of garbage and of free pages; what the first call leaves is not looked at again."""
    gc.collect()
    if not gc.get_freeze_count():
        gc.freeze()
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):  # glibc's
        trim(0)
