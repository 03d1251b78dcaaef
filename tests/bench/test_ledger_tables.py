"""The ledger's figures are told as they were measured."""

from __future__ import annotations

from bench.ledger_tables import ledger_table, mutations_table

MACHINE = {"machine": "a machine", "goal": "the goal", "rounds": 1000, "nodes": 12}


def test_the_page_says_seconds_and_what_was_checked() -> None:
    values = {"seconds": 2.5, "all_seconds": [2.5, 3.0], "cpu_seconds": 2.25, "cosignatures": 12012}
    lines = ledger_table({**values, **MACHINE}).splitlines()
    assert lines[0] == "## Verifying a ledger of 1,000 rounds of 12 nodes"
    assert "| seconds, the fastest | 2.50 |" in lines
    assert "| seconds, all | 2.50, 3.00 |" in lines
    assert "| cosignatures checked | 12,012 |" in lines


def test_a_missed_mutation_is_told() -> None:
    values = {"tried": 3020, "missed": 1, "how": {"gone": 20, "case": 3000}}
    lines = mutations_table({**values, **MACHINE}).splitlines()
    assert "| missed | 1 |" in lines
    assert "| tried: case | 3,000 |" in lines
