"""Reading ahead: batches come while the device trains, and its numbers are looked at later."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from gobelin.shared.data import Batch

T = TypeVar("T")
Batches = Callable[[int], Batch]  # global step → raw samples (B, ...) of one modality


def ahead(batches: Batches, steps: range, pin: bool) -> Iterator[tuple[int, Batch]]:
    """Each of some global steps with its batch; the next batch is read while the caller trains.

    `pin` puts batches into page-locked memory: a copy of any other makes the device wait.
    """

    def read(step: int) -> Batch:
        batch = batches(step)
        return batch.pin_memory() if pin else batch

    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches") as reader:
        coming = reader.submit(read, steps[0])
        for step in steps:
            batch = coming.result()
            if step != steps[-1]:
                coming = reader.submit(read, step + 1)
            yield step, batch


def later(items: Iterable[T], lag: int) -> Iterator[T]:
    """All items in order, each once `lag` more have been made."""
    waiting: deque[T] = deque()
    for item in items:
        waiting.append(item)
        if len(waiting) > lag:
            yield waiting.popleft()
    yield from waiting
