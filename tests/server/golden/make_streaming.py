"""Writes streaming.json: a small federation of three fragments, round by round.

Run as `python -m tests.server.golden.make_streaming` and only when it is meant to change.
"""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gobelin.server.aggregation import InMemory, weighted_mean
from gobelin.server.outer import OuterState, make_outer, step_fragment
from gobelin.shared.fragments import fragment_of_round, start_of_round
from gobelin.shared.vector import ParameterSchema, ParameterVector

FILE = Path(__file__).parent / "streaming.json"
ROUNDS, FRAGMENTS, STEPS, RATE, AWAY = 8, 3, 4, 0.25, (1, 4)  # member 1 is away in round 4
SCHEMA = ParameterSchema.of_shapes(
    {**{f"trunk.blocks.{i}.w": (2,) for i in range(3)}, "tokenizer.w": (1,), "projector.w": (3,)}
)
TARGETS = (0.75, -0.25)  # where each member's quadratic is least, in every parameter


def descend(values: Tensor, target: float) -> Tensor:
    """A member's local steps: ½ ‖θ − target‖² by gradient descent, in exact binary fractions."""
    for _ in range(STEPS):
        values = values - RATE * (values - target)
    return values


def trajectory(kind: str, alpha: float) -> list[dict[str, Any]]:
    """The consensus and the members' own models after every round."""
    base = ParameterVector(SCHEMA, torch.linspace(-1, 1, SCHEMA.size))
    outer = make_outer(kind)
    state: OuterState = {}
    own: dict[int, tuple[int, Tensor]] = {}
    rows = []
    for number in range(1, ROUNDS + 1):
        fragment = fragment_of_round(SCHEMA, FRAGMENTS, number)
        deltas = []
        for member, target in enumerate(TARGETS):
            if (member, number) == AWAY:
                continue
            start = base
            if member in own:
                start = start_of_round(number, base, FRAGMENTS, *own[member], alpha)
            own[member] = (number, descend(start.values, target))
            deltas.append(fragment.take(own[member][1]) - fragment.take(base.values))
        mean = weighted_mean(InMemory(deltas), [Fraction(1, len(deltas))] * len(deltas))
        values, state = step_fragment(outer, fragment, base.values, mean, state)
        base = ParameterVector(SCHEMA, values)
        rows.append(
            {
                "round": number,
                "base": base.values.tolist(),
                "own": [own[member][1].tolist() for member in sorted(own)],
            }
        )
    return rows


KINDS = [("sgd", 1.0), ("nesterov", 0.5), ("adam", 1.0)]


def main() -> None:
    """Write the file."""
    made = {f"{kind}, alpha {alpha}": trajectory(kind, alpha) for kind, alpha in KINDS}
    FILE.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
