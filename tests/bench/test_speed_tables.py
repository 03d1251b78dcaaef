"""Speed and memory are told as they were measured, and against the faster baseline."""

from __future__ import annotations

import argparse
from typing import Any

from bench.aggregator_memory import Peak, figures
from bench.exchange import speedups
from bench.measure import spread
from bench.speed_tables import exchange_table, memory_table


def options(**given: Any) -> argparse.Namespace:
    return argparse.Namespace(codecs=["int4/int4"], stock=["memory", "sqlite"], **given)


def test_a_speedup_is_against_the_faster_of_flowers_two() -> None:
    values: dict[str, Any] = {
        "25M.int4/int4.median_s": 2.0,
        "25M.int4/int4.seconds": spread([1.0, 2.0, 4.0]),
        "25M.stock_memory.median_s": 30.0,
        "25M.stock_memory.seconds": spread([15.0, 30.0]),
        "25M.stock_sqlite.median_s": 20.0,
        "25M.stock_sqlite.seconds": spread([18.0, 20.0]),
    }
    found = speedups(values, 25, options())
    assert found == {"25M.int4/int4.speedup": 10.0, "25M.int4/int4.speedup_of_minima": 15.0}


def test_a_baseline_that_did_not_finish_gives_no_speedup() -> None:
    values: dict[str, Any] = {
        "25M.int4/int4.median_s": 2.0,
        "25M.int4/int4.seconds": spread([2.0]),
        "25M.stock_memory.median_s": 30.0,
        "25M.stock_memory.seconds": spread([30.0]),
        "25M.stock_sqlite.median_s": None,
    }
    assert speedups(values, 25, options())["25M.int4/int4.speedup"] == 15.0
    values["25M.stock_memory.median_s"] = None
    assert speedups(values, 25, options()) == {}


def test_the_exchange_page_has_a_dash_where_nothing_finished() -> None:
    values = {
        **vars(options(sizes=[25], nodes=2, rounds=3, threads=4)),
        "machine": "a machine",
        "goal": "10",
        "25M.int4/int4.seconds": spread([2.0, 2.0]),
        "25M.int4/int4.median_s": 2.0,
        "25M.int4/int4.cpu_s_a_round": 3.0,
        "25M.int4/int4.speedup": 10.0,
        "25M.stock_memory.median_s": None,
    }
    lines = exchange_table(values).splitlines()
    assert "| 25M, Gobelin, int4/int4 | 2.00 ± 0.00 | 2.00 | 3.0 | 10.0 |" in lines
    assert "| 25M, Flower, SuperLink in memory | – | – | – | – |" in lines


def test_the_memory_page_tells_anonymous_from_resident_memory() -> None:
    parameters = 10**6
    peak = Peak(idle=4 * parameters, anonymous=8 * parameters, hwm=12 * parameters, seconds=1.0)
    values = {
        **figures("gobelin.fp32.sgd.2", peak, parameters),
        **figures("flower.2", peak, parameters),
        "nodes": [2],
        "flower_nodes": [2],
        "parameters": parameters,
        "rounds": 1,
        "threads": 2,
        "growth": 1.0,
        "growth_flower": 1.0,
        "headline": "gobelin.fp32.sgd",
        "machine": "a machine",
        "goal": "flat",
    }
    lines = memory_table(values).splitlines()
    for variant in ("gobelin.fp32.sgd", "flower"):
        assert f"| {variant}, anonymous | 2.00 |" in lines
        assert f"| {variant}, anonymous, idle included | 3.00 |" in lines
        assert f"| {variant}, resident, mapped files included | 3.00 |" in lines
