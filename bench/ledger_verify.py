"""Seconds to verify a ledger of 1,000 rounds of 12 nodes, offline, from its files.

Every record's signature, every row, every head's signature and every cosignature by all nodes is
checked, in one process on one core, with reading and parsing the files.

Writes bench/results/ledger_verify.json.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from bench.measure import write_result
from gobelin.shared.ledger import History, LedgerFolder, verify_history
from tests.ledgers import aggregator, history_of

GOAL = "at most 5 s"


def write_history(history: History, folder: Path) -> None:
    """Write a ledger's files."""
    ledger = LedgerFolder(folder)
    for signed in history.entries:
        ledger.put_entry(signed)
    for head in history.heads.values():
        ledger.put_head(head)
    ledger.put_rosters(history.rosters)


def main() -> None:
    """Make a ledger, verify it some times, and write the fastest and all others."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument("--nodes", type=int, default=12)
    parser.add_argument("--times", type=int, default=3)
    options = parser.parse_args()
    walls, cpus = [], []
    with tempfile.TemporaryDirectory() as folder:
        write_history(history_of(options.rounds, options.nodes), Path(folder) / "ledger")
        for _ in range(options.times):
            wall, cpu = time.perf_counter(), time.process_time()
            told = verify_history(LedgerFolder(Path(folder) / "ledger").read(), aggregator().public)
            walls.append(time.perf_counter() - wall)
            cpus.append(time.process_time() - cpu)
    values = {
        "seconds": min(walls),
        "all_seconds": walls,
        "cpu_seconds": min(cpus),
        "rounds": told.rounds,
        "nodes": options.nodes,
        "cosignatures": told.cosignatures,
        "goal": GOAL,
    }
    print(write_result("ledger_verify", values))


if __name__ == "__main__":
    main()
