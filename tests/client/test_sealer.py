"""A node in sealed rounds: what leaves it, what is on its disk first, and what it declines."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gobelin.client import sealer
from gobelin.client.contributor import Contributor
from gobelin.client.home import NodeHome
from gobelin.client.link import contribution_record
from gobelin.client.sealer import SealedReply, on_grid
from gobelin.protocols.enrolment import ADMIT, CONTRIBUTOR, PURPOSE_RECORD, RosterRecord
from gobelin.protocols.messages import DELTA, RoundPlan
from gobelin.protocols.sealing import (
    AGREE,
    KEYS,
    MASK,
    PHASES,
    REVEAL,
    SHARES,
    SealedCall,
    SealedSession,
)
from gobelin.server.roster import NodeEntry
from gobelin.shared.errors import (
    BudgetError,
    ConfigError,
    ContributionError,
    PeersError,
    SealingError,
)
from gobelin.shared.files import write_atomic
from gobelin.shared.keys import fingerprint
from gobelin.shared.roster_log import RosterLog, Signed
from gobelin.shared.sealing import Ring, add_masks, unmasking
from gobelin.shared.sealing.peer import SESSION
from gobelin.shared.sealing.tally import parse_answer
from gobelin.shared.signing import SigningKey
from gobelin.shared.vector import ParameterSchema, ParameterVector
from tests.client.contributing import BASE, home_at, in_spool, plan
from tests.sealed_world import for_node

NAMES = ("east", "north", "south")
RING = Ring(24, 1.0)
TERMS = {"sealed": True, "sealed_bits": 24, "sealed_bound": 1.0, "sealed_threshold": 2 / 3}


class Killed(BaseException):
    """Stands for kill −9."""


def sealed_plan(number: int = 1, **changes: Any) -> RoundPlan:
    return plan(number, BASE, **{**TERMS, **changes})


class Trio:
    """Three homes, started anew for every call, and what an aggregator asks of them."""

    def __init__(self, folder: Path, asked: RoundPlan) -> None:
        homes = [home_at(folder, name) for name in NAMES]
        self.homes = {fingerprint(home.public_key_file.read_bytes()): home for home in homes}
        self.aggregator = SigningKey.load(folder / "tls" / "signing.key")
        keys = {n: SigningKey.load(h.signing_key_file).public for n, h in self.homes.items()}
        owners = {node: home.settings().member for node, home in self.homes.items()}
        self.session = SealedSession(
            "fed", asked.round, 1, asked.digest, BASE.digest, 3, keys, owners
        )
        self.told: dict[str, dict[str, dict[str, str]]] = {}  # by phase, by node
        self.answers: dict[str, dict[str, str]] = {}
        self.masked: dict[str, np.ndarray] = {}

    def call(self, phase: str, told: dict[str, str], **changes: Any) -> SealedCall:
        text = dataclasses.replace(self.session, **changes).to_bytes().decode()
        return SealedCall(text, phase, self.aggregator.sign(SESSION, text.encode()), told)

    def ask(self, node: str, phase: str, **changes: Any) -> SealedReply:
        call = self.call(phase, self.tell(node, phase), **changes)
        return restarted(self.homes[node]).seal(call)

    def tell(self, node: str, phase: str) -> dict[str, str]:
        if phase == KEYS:
            return {}
        if phase == MASK:
            shares = self.answers[SHARES].items()
            return for_node({n: parse_answer(self.session, SHARES, n, t) for n, t in shares}, node)
        if phase == AGREE:
            return dict.fromkeys(self.homes, "")
        return self.answers[KEYS if phase == SHARES else AGREE]

    def run(self, phase: str) -> None:
        """One phase, all nodes."""
        replies = {node: self.ask(node, phase) for node in sorted(self.homes)}
        self.answers[phase] = {node: reply.answer for node, reply in replies.items()}
        if phase == MASK:
            for node, reply in replies.items():
                data = b"".join(reply.segments.values())
                self.masked[node] = np.frombuffer(data, "<u4").copy()

    def total(self) -> np.ndarray:
        """The sum, opened."""
        total = sum(self.masked.values(), np.zeros(BASE.schema.size, np.uint32))
        parsed = {
            phase: {n: parse_answer(self.session, phase, n, t) for n, t in told.items()}
            for phase, told in self.answers.items()
        }
        nodes = sorted(self.homes)
        add_masks(total, unmasking(self.session, parsed[KEYS], nodes, nodes, parsed[REVEAL]))
        return total


def restarted(home: NodeHome) -> Contributor:
    return Contributor(home, lambda status: None)


@pytest.fixture
def trio(tmp_path: Path) -> Trio:
    trio = Trio(tmp_path, sealed_plan())
    for home in trio.homes.values():
        in_spool(restarted(home), sealed_plan(), BASE.segments())
    return trio


def test_nothing_leaves_in_the_clear_and_kills_at_every_write_change_no_sum(
    trio: Trio, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = {n: restarted(h).finished(sealed_plan()) for n, h in trio.homes.items()}
    words = []
    for spooled in done.values():
        assert spooled is not None
        assert spooled.contribution.sealed
        assert spooled.contribution.delta_digest != spooled.payload.digest
        assert not contribution_record(spooled)[DELTA]  # nor when it is recalled
        words.append(RING.words(spooled.delta.values))
        assert torch.equal(RING.round(spooled.delta.values), spooled.delta.values)
    victim = sorted(trio.homes)[0]
    for phase in PHASES:
        for after in (False, True):
            with monkeypatch.context() as patch:
                patch.setattr(sealer, "write_atomic", killing(after))
                with pytest.raises(Killed):
                    trio.ask(victim, phase)
        first = trio.ask(
            victim, phase
        )  # written before the second kill, so it is this one for ever
        trio.run(phase)
        assert trio.answers[phase][victim] == first.answer
    assert np.array_equal(trio.total(), sum(words, np.zeros(BASE.schema.size, np.uint32)))
    for node, own in zip(trio.homes, words, strict=True):
        assert float(np.mean(trio.masked[node] == own)) < 0.01
    secret = trio.homes[victim].sealed / "state.json"
    assert secret.stat().st_mode & 0o777 == 0o600
    assert b'"secrets": null' in secret.read_bytes()  # gone with the reveal
    with pytest.raises(SealingError, match="has revealed shares in round 1"):
        trio.ask(victim, KEYS, session=2)
    with pytest.raises(SealingError, match="secrets of this session are gone"):
        trio.ask(victim, MASK)


def killing(after: bool) -> Any:
    def write(path: Path, data: bytes, mode: int = 0o644) -> None:
        if after:
            write_atomic(path, data, mode)
        raise Killed

    return write


def test_a_session_about_anything_else_is_declined(trio: Trio) -> None:
    node = sorted(trio.homes)[0]
    for change in (
        {"plan_digest": "ab" * 32},
        {"base_digest": "ab" * 32},
        {"federation": "other"},
        {"round": 2},
    ):
        with pytest.raises(SealingError, match="about another plan or base"):
            trio.ask(node, KEYS, **change)
    with pytest.raises(SealingError, match="lower threshold than its plan"):
        trio.ask(node, KEYS, threshold=2)
    assert not (trio.homes[node].sealed / "state.json").exists()


def test_a_peer_with_another_key_than_before_is_declined(trio: Trio) -> None:
    first, second, _ = sorted(trio.homes)
    trio.run(KEYS)
    keys = {**trio.session.keys, second: SigningKey.generate().public}
    name = trio.session.members[second]
    with pytest.raises(PeersError, match=f"signing keys of {name} are not those"):
        trio.ask(first, KEYS, session=2, keys=keys)
    trio.session = dataclasses.replace(trio.session, session=2)
    trio.run(KEYS)  # what was declined has changed nothing


def test_a_node_that_has_finished_nothing_does_not_mask(tmp_path: Path) -> None:
    trio = Trio(tmp_path, sealed_plan())
    node = sorted(trio.homes)[0]
    with pytest.raises(SealingError, match="has begun no sealed round"):
        trio.ask(node, KEYS)


def test_open_rounds_are_declined_by_who_wants_or_has_had_sealed_ones(
    trio: Trio, tmp_path: Path
) -> None:
    home = next(iter(trio.homes.values()))
    with pytest.raises(ContributionError, match="were sealed, this one is open"):
        in_spool(restarted(home), plan(1, BASE), BASE.segments())
    fresh = home_at(tmp_path, "west")
    text = fresh.settings_file.read_text()
    assert "sealed_only = false" in text
    text = text.replace("sealed_only = false", "sealed_only = true")
    write_atomic(fresh.settings_file, text.encode())
    with pytest.raises(ContributionError, match="would see this node's delta"):
        in_spool(restarted(fresh), plan(1, BASE), BASE.segments())


def test_settings_that_a_sealed_round_cannot_keep_are_told(tmp_path: Path) -> None:
    hasty = home_at(tmp_path, "north", seconds_per_round=10.0)
    with pytest.raises(ConfigError, match="takes every local step"):
        in_spool(restarted(hasty), sealed_plan(), BASE.segments())
    narrow = home_at(tmp_path, "south")
    text = narrow.settings_file.read_text().replace(
        "[egress]", "[egress]\nmax_mb_per_round = 0.005"
    )
    write_atomic(narrow.settings_file, text.encode())
    with pytest.raises(BudgetError):
        in_spool(restarted(narrow), sealed_plan(), BASE.segments())
    for terms in ({"sealed_bits": 31}, {"sealed_bound": 0.3}, {"sealed_bits": 0}):
        fresh = restarted(home_at(tmp_path, f"n{len(str(terms))}"))
        with pytest.raises(SealingError, match="no place for the deltas"):
            in_spool(fresh, sealed_plan(**terms), BASE.segments())


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 1 << 30), scale=st.sampled_from([1e-9, 1e-4, 0.3, 5.0]))
def test_what_the_grid_and_the_bound_leave_out_is_owed(seed: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    schema = ParameterSchema.of_shapes({"w": (100,)})
    delta = ParameterVector(schema, torch.randn(100, generator=generator) * scale)
    owed = torch.randn(100, generator=generator) * 1e-3
    made = on_grid(RING, delta, owed, 0.0)
    sent = made.payload.decode().values
    residual = made.residual if made.residual is not None else torch.zeros(100)
    assert torch.equal(sent + residual, delta.values + owed)
    assert float(sent.abs().max()) <= RING.bound
    short = on_grid(RING, delta, None, 0.01).payload.decode()
    assert short.norm() <= 0.01 + 10 * 2.0**-25  # the grid's own half step a coordinate
    assert made.distortion <= 1


def roster_of(trio: Trio, *names: str, key: SigningKey | None = None) -> RosterLog:
    """The aggregator's signed log of some of the homes; the last with another key, if given."""
    log = RosterLog("f" * 64, trio.aggregator.public)
    for home in trio.homes.values():
        name = home.settings().node
        if name not in names:
            continue
        entry = NodeEntry.of(name, name, home.public_key_file.read_bytes(), name)
        record = RosterRecord(
            index=len(log.records),
            previous=log.head,
            change=ADMIT,
            member=name,
            node=name,
            public_key=entry.public_key,
            signing_key=key.public if key and name == names[-1] else entry.signing_key,
            role=CONTRIBUTOR,
            reason="",
            at=1,
        )
        log.add(Signed(record, trio.aggregator.sign(PURPOSE_RECORD, record.to_bytes())))
    return log


def test_a_session_is_of_nodes_that_the_signed_roster_has(
    trio: Trio, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = next(n for n, home in trio.homes.items() if home.settings().node == "north")
    strange = {
        "one more than it has": roster_of(trio, "east", "north"),
        "another key": roster_of(trio, "east", "north", "south", key=SigningKey.generate()),
        "nothing": roster_of(trio),
    }
    for what, roster in strange.items():
        monkeypatch.setattr(sealer, "known_roster", lambda _, log=roster: log)
        with pytest.raises(PeersError, match="the signed roster has not"):
            trio.ask(node, KEYS)
        assert not (trio.homes[node].sealed / "state.json").exists(), what
    monkeypatch.setattr(sealer, "known_roster", lambda _: roster_of(trio, *NAMES))
    trio.ask(node, KEYS)
