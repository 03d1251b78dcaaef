"""A process that answers a round and then lets the shadow work, telling of each look for mail.

`python -m tests.faults.shadowed HOME ROUNDS`; it goes on from wherever the last one was killed.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from gobelin.client.home import NodeHome
from tests.client.shadow.node import BASE, Node


def main(home: Path, rounds: int) -> None:
    """Rounds 1 to `rounds`, each followed by all the time there is."""
    torch.set_num_threads(1)
    node, base = Node(NodeHome(home)), BASE

    def called() -> bool:
        print("look", flush=True)
        return False

    for number in range(1, rounds + 1):
        base = base + node.round(number, base).delta
        node.rest(called)
    print("done", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
