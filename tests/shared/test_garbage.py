"""Garbage in cycles goes now and then, and what a process began with is not looked through."""

from __future__ import annotations

import ctypes
import gc
import os
import threading
import weakref
from collections.abc import Iterator

import pytest

from gobelin.shared.garbage import collect, collected
from gobelin.shared.resident import resident_bytes

KB = 2**10
BLOCKS = 64 * KB  # of a KB each


class Knot:
    """Refers to itself, as what httpx and ctypes leave does."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture(autouse=True)
def by_nobody_else() -> Iterator[None]:
    """The collector looks at nothing by itself, and at everything afterwards."""
    gc.disable()
    try:
        yield
    finally:
        gc.unfreeze()
        gc.enable()


def dead_knot(gone: threading.Event | None = None) -> weakref.ref[Knot]:
    """A cycle that nobody holds any more; `gone` is set when it goes."""
    return weakref.ref(Knot(), lambda _: gone.set() if gone else None)


def test_cycles_are_let_go_again_and_again_within_the_block_and_not_behind_it() -> None:
    collect()  # the first: whatever is held while it runs stays
    with collected(every_s=0.01):
        for _ in range(3):
            gone = threading.Event()
            knot = dead_knot(gone)
            assert gone.wait(30)
            assert knot() is None
    assert "garbage" not in {thread.name for thread in threading.enumerate()}
    assert dead_knot()() is not None


def test_what_the_first_call_leaves_is_looked_through_once() -> None:
    garbage, held = dead_knot(), Knot()
    collect()
    assert garbage() is None
    frozen = gc.get_freeze_count()
    assert frozen > 0
    assert not any(one is held for one in gc.get_objects())
    later = dead_knot()
    collect()
    assert later() is None
    assert gc.get_freeze_count() <= frozen  # what has come since stays with the collector


def resident() -> int:
    """Bytes that this process has."""
    size = resident_bytes(os.getpid())
    assert size is not None
    return size


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="not glibc")
def test_free_pages_between_those_in_use_go_back_to_the_system() -> None:
    blocks = [bytes([1]) * KB for _ in range(BLOCKS)]
    held = blocks[::64] + blocks[-1:]  # the last keeps the heap from ending where it did
    blocks.clear()
    before = resident()
    collect()
    assert before - resident() > BLOCKS * KB / 2
    assert all(block == bytes([1]) * KB for block in held)
