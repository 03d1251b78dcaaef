"""Tables of what ships show what the benches have written."""

from __future__ import annotations

from bench.onnx_export import summary
from bench.ship_tables import island_table, onnx_table


def test_the_onnx_table_has_a_row_a_cell_and_says_the_slowest() -> None:
    def run(speedup: float, apart: float) -> dict[str, object]:
        cell = {"eager_ms": 4.0, "onnx_ms": 4.0 / speedup, "plain_ms": 5.0, "speedup": speedup}
        return {"max_abs_diff": apart, "export_s": 1.0, "cells": {"1.8": cell, "2.8": cell}}

    values = summary({"a": [run(2.0, 1e-6), run(2.0, 3e-6)], "b": [run(0.5, 2e-6)]})
    assert values["max_abs_diff"] == 3e-6
    assert values["least_speedup"] == 0.5
    assert abs(values["speedup"] - 1.0) < 1e-12
    about = {"threads": [1, 2], "batches": [8], "opset": 20, "runtime": "r", "machine": "m"}
    shown = onnx_table({**values, **about, "goal": "g"})
    assert shown.count("| a, 2 seeds |") == shown.count("| b, 1 seeds |") == 2
    assert "1.00 times as fast" in shown
    assert "0.50 times in the slowest" in shown


def test_the_island_table_has_a_row_a_command() -> None:
    shown = island_table(
        {
            "commands": {"release get": 0, "serve": 2},
            "connection_attempts": 2,
            "control_attempts": 1,
            "interfaces": ["lo"],
            "goal": "0",
        }
    )
    assert "| `gobelin serve` | 2 |" in shown
    assert "found 2" in shown
