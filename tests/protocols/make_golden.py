"""Makes golden/vN: messages as the protocol of that version has them, kept for ever.

Run by the gobelin whose protocol it is: `python -m tests.protocols.make_golden N`.
"""

from __future__ import annotations

import sys
from pathlib import Path

from gobelin.protocols.enrolment import Enrolment
from gobelin.protocols.ledger import RoundRecord
from gobelin.protocols.messages import Contribution, Farewell, Message, Receipt, RoundPlan

GOLDEN = Path(__file__).parent / "golden"
EXAMPLES: list[Message] = [
    RoundPlan("fed", 3, 9, '{"name":"toy"}', "5" * 64, "b" * 64, 500, 7, 3600.0, "int8"),
    Contribution("fed", 3, "9" * 64, "b" * 64, "d" * 64, 500, 64, 1.5, {"loss": 0.25}),
    Receipt("fed", 3, "d" * 64, True, "", 0.25),
    Farewell("fed", 9, "a" * 64),
    Enrolment("f" * 64, "invite", "north", "n", "PEM", "e" * 64, 1_700_000_000_000),
    RoundRecord(
        *("fed", 3, "9" * 64, "b" * 64, "a" * 64, "c" * 64, "1" * 64, "2" * 64, "3" * 64),
        contributions=2,
        contributions_root="4" * 64,
    ),
]


def main(number: int) -> None:
    """Write every example's canonical bytes."""
    folder = GOLDEN / f"v{number}"
    folder.mkdir(parents=True, exist_ok=True)
    for message in EXAMPLES:
        (folder / f"{type(message).__name__}.json").write_bytes(message.to_bytes())


if __name__ == "__main__":
    main(int(sys.argv[1]))
