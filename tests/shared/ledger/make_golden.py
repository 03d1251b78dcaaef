"""Write the golden ledger: two rounds of two nodes, as the first version has signed them.

What it holds verifies for ever; run it only to add another version beside it.
"""

from __future__ import annotations

from pathlib import Path

from bench.ledger_verify import write_history
from tests.ledgers import history_of

FOLDER = Path(__file__).parent / "golden" / "v1" / "ledger"

if __name__ == "__main__":
    write_history(history_of(2, 2), FOLDER)
