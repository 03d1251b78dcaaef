"""The matrix of attacks is told with what was refused, of hostile and of honest members."""

from __future__ import annotations

from typing import Any

from bench.attack_tables import byzantine_table
from bench.measure import spread


def test_a_rule_is_judged_by_its_worst_attack_and_refusals_are_shares() -> None:
    values: dict[str, Any] = {
        "seeds": [0],
        "rounds": 4,
        "local_steps": 2,
        "recipe": "toy",
        "alpha": 0.3,
        "no_gate": False,
        "floor": False,
        "members": 12,
        "hostile": 2,
        "machine": "a machine",
        "goal": "2",
        "best_rule": "median",
        "worst_loss": 0.5,
        "worst_loss_plain_mean": 9.0,
    }
    lost = {("mean", "none"): 0.0, ("mean", "nan"): 9.0, ("median", "none"): 0.5}
    for (rule, attack), points in {**lost, ("median", "nan"): 0.25}.items():
        key = f"{rule}.{attack}"
        values[f"{key}.tokens"] = spread([86.0 - points])
        values[f"{key}.below_clean_mean"] = spread([points])
        values[f"{key}.refused"] = {"none": 0, "nan": 6 if rule == "mean" else 8}[attack]
        values[f"{key}.refused_honest"] = int(rule == "median")
    values |= {"mean.worst_loss": 9.0, "median.worst_loss": 0.5}
    lines = byzantine_table(values).splitlines()
    assert "| NaN | +9.00 ± 0.00 | +0.25 ± 0.00 | 75–100 % | 1 |" in lines
    assert "| none | +0.00 ± 0.00 | +0.50 ± 0.00 | 0 % | 1 |" in lines
    assert "| worst | +9.00 | +0.50 |  |  |" in lines
