"""The bench of the federated world model: which seeds had real processes is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench import federated_worldmodel as bench
from bench.world_tables import federated_table
from examples.demo_worldmodel import MEMBERS, Plan
from gobelin.shared.files import write_json

ROWS = ("random policy", *MEMBERS, "pooled", "consensus")


def result(seed: int, in_process: bool) -> dict[str, Any]:
    success = dict(zip(ROWS, (10, 20, 30, 40, 90, 80 + seed), strict=True))
    values: dict[str, Any] = dict.fromkeys(bench.KEYS, 1)
    values |= {
        "seed": seed,
        "in_process": in_process,
        "success": success,
        "steps_taken": dict.fromkeys(ROWS, 9.0),
        "foresight": {row: {"imagined": 0.1, "decoded": 0.1, "still": 0.3} for row in ROWS[1:]},
        "premium": success["consensus"] / 40,
        "gap_to_pooled": 90.0 - success["consensus"],
        "seconds": 1.0,
    }
    return values if in_process else values | {"round_overhead_s": 1.5}


def test_the_table_tells_which_seeds_had_a_process_for_every_node() -> None:
    values = bench.summarise([result(0, False), result(4, True)]) | {"machine": "m"}
    assert values["gap_to_pooled"]["mean"] == 8
    assert values["round_overhead_s"]["sd"] == 0  # of the real one alone
    table = federated_table(values)
    assert "every node and the aggregator (seeds [0])" in table
    assert "the same bits (seeds [4])" in table
    alone = federated_table(bench.summarise([result(4, True)] * 2) | {"machine": "m"})
    assert "aggregator" not in alone


def test_a_seed_that_has_ended_is_run_again_unless_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "run", lambda plan, console: {"seed": -1})
    plan = Plan(tmp_path)
    assert bench.result_of(plan, resume=True) == {"seed": -1}  # nothing has ended
    write_json(tmp_path / "results.json", {"seed": 7})
    assert bench.result_of(plan, resume=True) == {"seed": 7}
    assert bench.result_of(plan, resume=False) == {"seed": -1}


def test_a_seed_asked_for_by_real_processes_gets_them(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: dict[int, bool] = {}

    def ended(plan: Plan, resume: bool) -> dict[str, Any]:
        taken[plan.seed] = plan.in_process
        return result(plan.seed, plan.in_process)

    monkeypatch.setattr(bench, "result_of", ended)
    monkeypatch.setattr(bench, "write_result", lambda name, values: name)
    monkeypatch.setattr("sys.argv", ["bench", "--seeds", "0", "1", "--in-process", "1", "2"])
    bench.main()
    assert taken == {0: False, 1: False, 2: True}
