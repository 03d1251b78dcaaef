"""Replies no honest node sends, through the aggregator's whole intake: all must be refused by name.

Every case is an upload laid into a stand-in for the SuperLink (`hostile_wire`); what reads and
judges it is the product's: courier, uploads, records, the open round with its screening,
provenance and admission. A case passes when the round records a refusal with exactly the code it
names. `accepted` counts those that were counted in, `wrong` those refused by another code,
`crashed` those that raised. After them an honest reply of the same node must count: else refusing
everything would pass. `growth_mb` is how much the process's peak memory grew over the corpus.

Writes bench/results/hostile_corpus.json; exits by 1 unless all is as it should be.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.hostile_wire import SuperLink, Upload, Wire, upload_of
from bench.measure import write_result
from gobelin.client.records import contribution_record
from gobelin.client.spool import Spooled
from gobelin.protocols.envelope import CONTRIBUTION, SignedEnvelope
from gobelin.protocols.messages import Contribution, RoundPlan
from gobelin.server.courier import Parcel
from gobelin.server.engine import GridCourier
from gobelin.server.founding import Charter, found
from gobelin.server.history import Past
from gobelin.server.home import AggregatorHome
from gobelin.server.open_round import OpenRound
from gobelin.server.roster import NodeEntry
from gobelin.server.round_state import Known
from gobelin.server.rounds import RoundEngine
from gobelin.server.seal import Standing
from gobelin.server.terms import terms_of
from gobelin.shared.codec import compress
from gobelin.shared.envelope import seal
from gobelin.shared.keys import make_key, public_pem
from gobelin.shared.objective import Moments
from gobelin.shared.objective.moments import digest_of
from gobelin.shared.resident import peak_mb
from gobelin.shared.seeds import generator_of
from gobelin.shared.signing import SigningKey, public_signing_pem
from gobelin.shared.vector import ParameterVector

ROUND, ROUNDS, STEPS = 4, 9, 3
NODES = ("north", "south", "stranger")  # who is honest, who is not, who is on no roster
EXPIRES = 1 << 61


@dataclass(frozen=True)
class Case:
    """A name, the code it must be refused by, and what is uploaded at a stage."""

    name: str
    code: str
    upload: Callable[[Stage], Upload]
    codec: str = "fp32"  # of the plan
    sender: str = "south"


@dataclass
class Verdict:
    """What the corpus came to."""

    cases: int = 0
    accepted: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    crashed: list[str] = field(default_factory=list)
    honest: int = 0  # replies that were counted after all those, one a stage
    growth_mb: float = 0.0

    @property
    def sound(self) -> bool:
        """Whether nothing hostile came in and what is honest did."""
        return not (self.accepted or self.wrong or self.crashed) and self.honest > 0


class Stage:
    """One open round with its wire: north has been counted, south is yet to answer."""

    def __init__(self, folder: Path, codec: str) -> None:
        rounds = {"rounds": ROUNDS, "local_steps": STEPS, "codec": codec, "cross_node": True}
        charter = Charter(
            "fed", "toy", "127.0.0.1:9", rounds=rounds, policy={"collapse_gate": False}
        )
        found(folder, charter)
        self.home = AggregatorHome(folder)
        self.keys = {name: SigningKey.generate() for name in NODES}
        public = {name: public_pem(make_key().public_key()) for name in NODES}
        self.entries = {
            name: NodeEntry.of(
                name, name, public[name] + public_signing_pem(self.keys[name].public), name
            )
            for name in NODES
        }
        roster = self.home.roster()
        for name in NODES[:2]:
            roster = roster.admit(self.entries[name])
        self.home.write_roster(roster)
        self.link = SuperLink()
        self.wire = Wire(self.link, dict(enumerate(public.values(), start=1)))
        self.courier = GridCourier(self.wire)
        self.told: list[tuple[str, dict[str, Any]]] = []
        self._open()
        self._parcels: dict[str, Parcel] = {}

    def _open(self) -> None:
        engine = RoundEngine(self.home, self.courier, lambda: 0.0, lambda _: None)
        rim = engine._rim
        object.__setattr__(rim, "tell", lambda event, facts: self.told.append((event, facts)))
        rim.ledger.mend()
        standing = Standing.of(self.home.latest()[1])
        self.base = standing.base
        self.plans = {number: engine._plan(number, standing) for number in range(1, ROUNDS + 1)}
        self.plan = self.plans[ROUND]
        owing = {ROUND - 1: Past(self.plans[ROUND - 1], frozenset())}
        terms = terms_of(self.home.settings())
        self.dim = self.home.recipe().projector.out
        self.round = OpenRound(rim, self.plan, terms, standing, owing, Known())
        self.round._dispatch._sizes = {}  # no sealed rounds lie behind this one
        self.round._look()

    def id(self, name: str) -> str:
        """A node's fingerprint."""
        return self.entries[name].id

    # ------------------------------------------------------------ what nodes send

    def delta(self, name: str, plan: RoundPlan) -> ParameterVector:
        """Something to contribute."""
        generator = generator_of(1, name, plan.round)
        values = self.base.values.clone().normal_(0, 1e-2, generator=generator)
        return ParameterVector(self.base.schema, values)

    def moments(self, name: str) -> bytes:
        """Of some projections."""
        generator = generator_of(2, name)
        z = self.base.values[: 20 * self.dim].clone().normal_(generator=generator)
        return Moments.of(z.view(20, self.dim)).to_bytes()

    def spooled(
        self,
        name: str = "south",
        plan: RoundPlan | None = None,
        by: str | None = None,
        **header: Any,
    ) -> Spooled:
        """An honest contribution, by a codec; `header` spoils what it says before it is signed."""
        plan = plan or self.plan
        payload = compress(by or plan.codec, self.delta(name, plan), None).payload
        moments = self.moments(name)
        values = {
            "federation": plan.federation,
            "round": plan.round,
            "plan_digest": plan.digest,
            "base_digest": plan.base_digest,
            "delta_digest": payload.digest,
            "local_steps": plan.local_steps,
            "samples": 16,
            "seconds": 1.0,
            "metrics": {"loss": 1.0},
            "codec": payload.codec,
            "moments_digest": digest_of(moments),
            **header,
        }
        made = Contribution(**values)
        return Spooled(made, payload, moments, self.sign(made, name))

    def sign(
        self,
        made: Contribution,
        name: str = "south",
        purpose: str = CONTRIBUTION,
        expires: int = EXPIRES,
        key: SigningKey | None = None,
        **said: str,
    ) -> SignedEnvelope:
        """An envelope; `said` is what it says of its node and member."""
        told = {"member": name, "node": self.id(name), **said}
        key = key or self.keys[name]
        return seal(key, purpose, made, issued=1, expires=expires, **told)

    def upload(self, spooled: Spooled, spoil: Callable[[Any], object] | None = None) -> Upload:
        """A contribution as an upload, its record spoilt on the way."""
        record = contribution_record(spooled)
        if spoil is not None:
            spoil(record)
        return upload_of(self.wire.answer(self._last, record))

    # ------------------------------------------------------------ what becomes of it

    def play(self, sender: str, make: Callable[[Stage], Upload]) -> str:
        """Offer, upload, take: the reason of the refusal, or "" for what was counted."""
        parcel = Parcel(
            self.id(sender), self.plan, None, limit=self.round._dispatch._limit(self.plan)
        )
        self.courier.nodes()
        self.courier.send([parcel])
        self._last = f"{len(self.wire.sent) - 1}"
        self.link.uploads = {self._last: make(self)}
        self.told.clear()
        for reply in self.courier.replies():
            self.round._take(reply)
        if any(event == "contribution" for event, _ in self.told):
            return ""
        reasons = [facts["reason"] for event, facts in self.told if event == "refused"]
        return reasons[0] if reasons else "nothing"


def run(folder: Path) -> Verdict:
    """Play all cases, then the honest ones."""
    from bench.hostile_cases import CASES

    verdict = Verdict()
    stages: dict[str, Stage] = {}
    for codec in sorted({case.codec for case in CASES}):
        stage = stages[codec] = Stage(folder / codec, codec)
        assert stage.play("north", lambda s: s.upload(s.spooled("north"))) == ""
    before = peak_mb()
    for case in CASES:
        verdict.cases += 1
        try:
            found = stages[case.codec].play(case.sender, case.upload)
        except Exception as error:
            verdict.crashed.append(f"{case.name}: {type(error).__name__}: {error}")
            continue
        if found == "":
            verdict.accepted.append(case.name)
        elif found != case.code:
            verdict.wrong.append(f"{case.name}: {found}, expected {case.code}")
    verdict.growth_mb = peak_mb() - before
    for stage in stages.values():
        verdict.honest += stage.play("south", lambda s: s.upload(s.spooled())) == ""
    return verdict


def main() -> None:
    """Play the corpus and write what came of it."""
    with tempfile.TemporaryDirectory(prefix="hostile-") as folder:
        verdict = run(Path(folder))
    values = {
        "cases": verdict.cases,
        "accepted": len(verdict.accepted),
        "wrong": len(verdict.wrong),
        "crashed": len(verdict.crashed),
        "honest": verdict.honest,
        "growth_mb": verdict.growth_mb,
        "goal": "cases >= 60, accepted = wrong = crashed = 0, growth_mb <= 64",
    }
    print(write_result("hostile_corpus", values))
    for line in verdict.accepted + verdict.wrong + verdict.crashed:
        print(line)
    sys.exit(0 if verdict.sound else 1)


if __name__ == "__main__":
    main()
