"""Tables of the round ledger: the time to verify one, and mutations that go unseen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.markdown import table


def ledger_table(values: Mapping[str, Any]) -> str:
    """Seconds to verify a whole ledger."""
    rows = [
        ["seconds, the fastest", f"{values['seconds']:.2f}"],
        ["seconds, all", ", ".join(f"{seconds:.2f}" for seconds in values["all_seconds"])],
        ["processor seconds, the least", f"{values['cpu_seconds']:.2f}"],
        ["cosignatures checked", f"{values['cosignatures']:,}"],
    ]
    heading = (
        f"## Verifying a ledger of {values['rounds']:,} rounds of {values['nodes']} nodes\n\n"
        f"`make bench-ledger_verify`: one process, files read and parsed, {values['machine']}. "
        f"Goal: {values['goal']}.\n"
    )
    return "\n".join([heading, table(["figure", "value"], rows)])


def mutations_table(values: Mapping[str, Any]) -> str:
    """Single-field mutations of a ledger, tried and missed."""
    rows = [
        ["tried", f"{values['tried']:,}"],
        ["missed", f"{values['missed']}"],
        *([f"tried: {how}", f"{count:,}"] for how, count in sorted(values["how"].items())),
    ]
    heading = (
        "## Mutations of a ledger\n\n"
        f"`make bench-ledger_mutations`: every field of every file of {values['rounds']} rounds of "
        f"{values['nodes']} nodes, changed one at a time, {values['machine']}. "
        f"Goal: {values['goal']}.\n"
    )
    return "\n".join([heading, table(["figure", "value"], rows)])
