"""The batcher: who asks at the same time is answered by one forward pass.

The first that waits opens a batch; it is computed when it is full or a moment later. Its thread is
the only one that computes.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

import torch
from torch import Tensor

from gobelin.shared.errors import CrowdError, GobelinError

MOST = 64  # samples in one forward pass
WAIT_S = 0.005  # for others, once somebody waits
WAITING = 512  # samples that may wait; who comes then is told to come again

Answer = Callable[[Tensor], tuple[Tensor, ...]]


@dataclass(frozen=True, eq=False)
class Asked:
    """One request: samples (B, ...), and where their answers go."""

    samples: Tensor
    answer: Future[tuple[Tensor, ...]] = field(default_factory=Future)


class Batcher:
    """Answers of a function of samples (B, ...) to tuples of (B, ...), for several threads."""

    def __init__(
        self, compute: Answer, most: int = MOST, wait_s: float = WAIT_S, waiting: int = WAITING
    ) -> None:
        self._compute = compute
        self._most, self._wait_s, self._room = most, wait_s, waiting
        self._queue: queue.SimpleQueue[Asked] = queue.SimpleQueue()
        self._waiting = 0  # samples in the queue
        self._lock = threading.Lock()
        self.passes = 0  # forward passes so far
        self.samples = 0  # and samples that went through them
        threading.Thread(target=self._run, name="batches", daemon=True).start()

    def ask(self, samples: Tensor) -> tuple[Tensor, ...]:
        """Answers to samples (B, ...), in order; raises CrowdError where too many wait.

        Samples of all requests are of one shape and dtype.
        """
        with self._lock:
            if self._waiting + len(samples) > self._room:
                raise CrowdError(f"{self._waiting} samples are waiting", "ask again later")
            self._waiting += len(samples)
        asked = Asked(samples)
        self._queue.put(asked)
        return asked.answer.result()

    def _run(self) -> None:
        kept: list[Asked] = []  # what did not fit into the last batch
        while True:
            batch = self._gather(kept.pop() if kept else self._queue.get(), kept)
            with self._lock:
                self._waiting -= sum(len(asked.samples) for asked in batch)
            self._answer(batch)

    def _gather(self, first: Asked, kept: list[Asked]) -> list[Asked]:
        """A batch that begins with `first`; one request too many goes to `kept`."""
        batch, size, until = [first], len(first.samples), time.monotonic() + self._wait_s
        while size < self._most:
            try:
                more = self._queue.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                break
            if size + len(more.samples) > self._most:
                kept.append(more)
                break
            batch.append(more)
            size += len(more.samples)
        return batch

    def _answer(self, batch: list[Asked]) -> None:
        samples = torch.cat([asked.samples for asked in batch])
        try:
            parts = self._computed(samples)
        except Exception as error:  # theirs to hear, and the thread goes on
            told = error if isinstance(error, GobelinError) else GobelinError("the model failed")
            for asked in batch:
                asked.answer.set_exception(told)
            return
        start = 0
        for asked in batch:
            end = start + len(asked.samples)
            asked.answer.set_result(tuple(part[start:end] for part in parts))
            start = end

    def _computed(self, samples: Tensor) -> tuple[Tensor, ...]:
        """In pieces of at most `most`, which one large request may need."""
        found = [self._compute(part) for part in torch.split(samples, self._most)]
        self.passes += len(found)
        self.samples += len(samples)
        return tuple(torch.cat(parts) for parts in zip(*found, strict=True))
