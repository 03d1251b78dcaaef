"""A node's home after some rounds, as status, watch and page find it."""

from __future__ import annotations

from pathlib import Path

from gobelin.client.egress_ledger import Departure, EgressLedger
from gobelin.client.home import NodeHome, NodeStatus
from gobelin.client.ledger import receipt_file
from gobelin.client.shadow.premium import Point
from gobelin.client.shadow.record import Record
from gobelin.client.uplink import Uplink
from gobelin.protocols.messages import Receipt, RoundPlan
from gobelin.shared.files import write_atomic, write_json
from tests.client.shadow.node import BASE, SHADOW, home_at, plan_of

START = 1_700_000_000.0  # when round 1 left
PACE_S = 600.0  # between two rounds
DELTA = 1_250_000  # bytes of a delta


def lived_in(folder: Path, rounds: int = 12, shadow: bool = True, start: float = START) -> NodeHome:
    """Rounds 1 to `rounds` have left; the last is not counted yet, and 5 was not answered."""
    home = home_at(folder, SHADOW if shadow else None)
    at = start
    ledger = EgressLedger(home.egress_file, lambda: at)
    ledger.call("Enrol", b"x" * 900)
    for number in range(1, rounds + 1):
        at = start + PACE_S * (number - 1)
        if number == 5:
            refused = ledger.leaving(Departure("answer", code="gobelin:site_policy"))
            ledger.left(refused, 120, {"PushMessages": 1})
            continue
        gone = Departure(
            "contribution",
            round=number,
            codec="int4",
            digest=f"{number:064x}",
            payload_bytes=DELTA,
            moments_bytes=0 if number < 3 else 2184,
            metrics=("loss", "sent_bytes", "distortion"),
            cosigned=number,
            cosignature_bytes=220,
        )
        ledger.left(ledger.leaving(gone), DELTA + 6000, {"PushMessages": 1, "PushObject": 4})
        ledger.session(900 * number, {"PullMessages": 60})
        if number < rounds:
            told = Receipt("fed", number, gone.digest, True, "", 0.2 + 0.01 * (number % 3))
            write_json(receipt_file(home.receipts, number), {"receipt": told.plain()})
    last = plan_of(rounds, BASE, rounds=100)
    write_atomic(home.plan_file, last.to_bytes())
    status = NodeStatus("training", rounds, 100, 120, 500, 812.0, 0.412, 23.5, 61.0, peak_mb=910.0)
    write_json(home.status_file, status.facts())
    Uplink(home.uplink_file).note(DELTA, 0.5)
    if shadow:
        _record(last, rounds).write(home.shadow)
    return home


def _record(plan: RoundPlan, rounds: int) -> Record:
    """A shadow that has seen a third, and is ever further behind the consensus."""
    batch = 32_000
    consensus = [Point(n, batch * (n - 1), 62.0 + 18 * (1 - 0.8**n)) for n in range(1, rounds + 1)]
    steps = range(1, rounds // 3 + 1)
    solo = [Point(500 * n, batch * n, 61.0 + 14 * (1 - 0.75**n)) for n in steps]
    return Record(
        plan=plan,
        recipe_digest="r" * 64,
        from_round=1,
        data={1: 6000},
        held_out=600,
        measure="probe",
        trained=dict.fromkeys(range(1, rounds + 1), (batch, 40.0)),
        consensus=tuple(consensus),
        solo=tuple(solo),
        solo_steps=solo[-1].at,
        solo_samples=solo[-1].samples,
        training_s=130.0,
        measuring_s=21.0,
        waited_s=0.31,
    )
