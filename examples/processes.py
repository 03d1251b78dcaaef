"""What the demos' processes share: one thread a worker, and errors in one line."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from examples.loopback import CommandFailed
from gobelin.shared.errors import GobelinError


@contextmanager
def told_errors() -> Iterator[None]:
    """End the process with one line about what an operator can mend."""
    try:
        yield
    except GobelinError as error:
        print(f"demo: [{error.code}] {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except CommandFailed as error:
        print(f"demo: {error}", file=sys.stderr)
        sys.exit(1)


def one_thread() -> None:
    """In a worker: leave the other cores to the other workers."""
    torch.set_num_threads(1)
