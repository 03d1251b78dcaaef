"""Answers of an oracle as plain data, for `--json` and HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from gobelin.shared.worldmodel.oracle import Foreseen, Oracle, Planned


def planned_facts(oracle: Oracle, found: Planned) -> dict[str, Any]:
    """Actions (H, A), what they cost, and where they are foreseen to lead."""
    facts: dict[str, Any] = {
        "feasible": True,
        "actions": found.actions.tolist(),
        "cost": found.cost,
        "start_to_goal": found.start_to_goal,
    }
    return facts | one_plan(foreseen_facts(oracle, found.foreseen))


def foreseen_facts(oracle: Oracle, found: Foreseen) -> dict[str, Any]:
    """Distances (S, H), and states (S, H, R) with the readout's error (R,) where it reads some."""
    facts: dict[str, Any] = {"from_start": found.from_start.tolist()}
    if found.to_goal is not None:
        facts["to_goal"] = found.to_goal.tolist()
    if found.states is not None and oracle.states is not None:
        facts["states"] = found.states.tolist()
        facts["state_error"] = oracle.states.error.tolist()
    return facts


def one_plan(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The facts of a single plan, without the axis of plans."""
    return {name: value if name == "state_error" else value[0] for name, value in facts.items()}


def surprise_facts(energy: Tensor) -> dict[str, Any]:
    """Of one episode's energies (T,)."""
    return {
        "energy": energy.tolist(),
        "mean": float(energy.mean()),
        "peak": float(energy.max()),
        "peak_step": int(energy.argmax()),
    }
