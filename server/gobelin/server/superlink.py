"""Flower's SuperLink, with a bound on what it reads into memory of one request.

Flower's own is 2 GiB, and a body is read before anybody asks whose it is. No honest request is
larger than one chunk of an array (`limits`), so a stranger's, and a node's, ends there.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

from gobelin.server.limits import MOST_OF_ONE

MOST_OF_REQUEST = 2 * MOST_OF_ONE  # bytes, of a request or an answer


def main() -> None:
    """As `flower-superlink`, bounded."""
    flower: Any = importlib.import_module("flwr.superlink.cli.flower_superlink")
    flower.GRPC_MAX_MESSAGE_LENGTH = MOST_OF_REQUEST
    sys.exit(flower.flower_superlink())


if __name__ == "__main__":
    main()
