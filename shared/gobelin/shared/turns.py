"""Turns: a long piece of work over a vector, cut into turns that torch's threads take.

Each turn has one thread: sharing it among threads costs more than its arithmetic, and what a
turn computes does then not depend on how many threads there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch

T = TypeVar("T")


def take_turns(work: Callable[..., T], *columns: Sequence[Any]) -> Iterator[T]:
    """`work` of every row of the columns, in order, as `map` gives it."""
    if len(columns[0]) <= 1:  # not worth a thread
        yield from map(work, *columns)
        return
    threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(threads, "turns", torch.set_num_threads, (1,)) as pool:
            yield from pool.map(work, *columns)
    finally:
        torch.set_num_threads(threads)  # for threads to come; this one's number never changed
