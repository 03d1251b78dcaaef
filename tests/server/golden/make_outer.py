"""Writes outer.json: the trajectory of every outer optimizer over seven rounds, one skipped.

Run as `python -m tests.server.golden.make_outer` and only when a trajectory is meant to change.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from gobelin.server.outer import OUTERS, OuterState, make_outer

FILE = Path(__file__).parent / "outer.json"
ROUNDS, SIZE, SKIPPED = 7, 5, 4  # round 4 is void: nothing moves


def trajectory(kind: str) -> list[dict[str, Any]]:
    """Base and state after every round."""
    generator = torch.Generator().manual_seed(2003)
    base = torch.randn(SIZE, generator=generator)
    state: OuterState = {}
    rows = []
    for number in range(1, ROUNDS + 1):
        delta = 0.1 * torch.randn(SIZE, generator=generator)
        if number != SKIPPED:
            base, state = make_outer(kind).step(base, delta, state)
        kept = {name: tensor.tolist() for name, tensor in sorted(state.items())}
        rows.append({"round": number, "base": base.tolist(), "state": kept})
    return rows


def main() -> None:
    """Write the file."""
    text = json.dumps({kind: trajectory(kind) for kind in OUTERS}, indent=1)
    FILE.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
