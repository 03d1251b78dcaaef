"""Receipts: only what counted pays a debt, so nothing a codec lost is lost with a round."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gobelin.client.spool import DEBT, DEBT_BEFORE, RECEIPT, Spool
from gobelin.protocols.messages import LATE, PENDING, Contribution, Receipt
from gobelin.shared.codec import compress
from gobelin.shared.vector import ParameterSchema, ParameterVector

SCHEMA = ParameterSchema.of_shapes({"trunk.w": (20, 20), "trunk.b": (20,)})
Fate = Literal["counted", "refused", "late", "counted late", "refused late"]


def delta_of(number: int) -> ParameterVector:
    generator = torch.Generator().manual_seed(number)
    return ParameterVector(SCHEMA, torch.randn(SCHEMA.size, generator=generator) * 1e-3)


def put(spool: Spool, number: int, codec: str = "int4") -> tuple[Contribution, Tensor]:
    """Contribute to a round as a node does; returns what was sent."""
    debt = spool.debt_before(number)
    made = compress(codec, delta_of(number), debt.owed)
    digest = made.payload.digest
    header = Contribution("fed", number, f"plan-{number}", "base", digest, 3, 48, 1.5, {}, codec)
    spool.put(header, made.payload, {"step": torch.zeros(())}, made.residual, debt)
    return header, made.payload.decode().values


def receipt(made: Contribution, counted: bool, reason: str = "") -> Receipt:
    weight = 0.5 if counted else 0.0
    return Receipt("fed", made.round, made.delta_digest, counted, reason, weight)


def owed(spool: Spool, number: int) -> Tensor:
    found = spool.debt_before(number).owed
    return torch.zeros(SCHEMA.size) if found is None else found


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "spool")


def test_what_was_owed_before_is_the_last_rounds_file(spool: Spool, tmp_path: Path) -> None:
    put(spool, 1)
    put(spool, 2)
    first, second = (tmp_path / "spool" / f"round-0000{i}" for i in (1, 2))
    assert (second / DEBT_BEFORE).samefile(first / DEBT)
    before = owed(spool, 2)
    shutil.rmtree(first)
    spool.settle("fed", 3, [receipt(spool.entry(2).contribution, False)])
    assert torch.equal(owed(spool, 3), before)  # round 2 has paid nothing


def test_a_disk_without_links_has_copies(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*args: object) -> None:
        raise OSError("not supported")

    monkeypatch.setattr(os, "link", none)
    first, _ = put(spool, 1)
    before = owed(spool, 2)
    second, _ = put(spool, 2)
    spool.settle("fed", 3, [receipt(first, True), receipt(second, False)])
    assert torch.equal(owed(spool, 3), before)


def test_a_contribution_is_spooled_until_its_receipt_comes(spool: Spool) -> None:
    made, _ = put(spool, 1)
    assert (spool.entry(1).state, spool.entry(1).counted) == ("spooled", None)
    (news,) = spool.settle("fed", 2, [receipt(made, True)])
    assert (news.state, news.counted) == ("receipted", True)
    assert news == spool.entry(1)
    assert news.fate == "the contribution to round 1 counted with weight 0.5"
    assert spool.settle("fed", 2, [receipt(made, True)]) == []


def test_what_the_aggregator_says_nothing_of_came_too_late(spool: Spool) -> None:
    put(spool, 1)
    put(spool, 2)
    assert [entry.contribution.round for entry in spool.settle("fed", 2, [])] == [1]
    assert spool.entry(2).receipt is None  # its round is open
    assert spool.entry(1).fate == f"the contribution to round 1 was not counted: {LATE}"


def test_a_receipt_once_had_is_not_lost_when_a_later_offer_leaves_it_out(spool: Spool) -> None:
    made, _ = put(spool, 1)
    spool.settle("fed", 2, [receipt(made, True)])
    assert spool.settle("fed", 3, []) == []
    assert spool.entry(1).counted


def test_another_federation_says_nothing_of_our_contributions(spool: Spool) -> None:
    put(spool, 1)
    assert spool.settle("another", 9, []) == []
    assert spool.entry(1).receipt is None


def test_a_receipt_for_other_bytes_says_that_these_did_not_count(spool: Spool) -> None:
    made, _ = put(spool, 1)
    (news,) = spool.settle("fed", 2, [replace(receipt(made, True), delta_digest="0" * 64)])
    assert news.counted is False
    assert news.fate.endswith("not counted: another one was")


def test_training_a_round_again_takes_its_receipt_away(spool: Spool, tmp_path: Path) -> None:
    made, _ = put(spool, 1)
    spool.settle("fed", 2, [receipt(made, True)])
    assert list(tmp_path.rglob(RECEIPT))
    put(spool, 1)
    assert spool.entry(1).receipt is None


@pytest.mark.parametrize("reason", ["late", "collapsed", "magnitude"])
def test_what_did_not_count_pays_nothing(spool: Spool, reason: str) -> None:
    first, _ = put(spool, 1)
    spool.settle("fed", 2, [receipt(first, True)])
    before = owed(spool, 2)
    second, _ = put(spool, 2)
    spool.settle("fed", 3, [receipt(second, False, reason)])
    assert torch.equal(owed(spool, 3), before)
    assert not torch.equal(before, torch.zeros(SCHEMA.size))


def test_the_first_contribution_lost_leaves_no_debt(spool: Spool) -> None:
    made, _ = put(spool, 1)
    spool.settle("fed", 2, [receipt(made, False, "late")])
    assert spool.debt_before(2).owed is None


def test_while_nothing_is_known_it_is_taken_as_counted(spool: Spool, tmp_path: Path) -> None:
    known = Spool(tmp_path / "known")
    made, _ = put(known, 1)
    known.settle("fed", 2, [receipt(made, True)])
    put(spool, 1)
    spool.settle("fed", 2, [Receipt("fed", 1, "", False, PENDING, 0.0)])
    assert spool.entry(1).receipt is None
    assert torch.equal(owed(spool, 2), owed(known, 2))


def course(spool: Spool, fates: Sequence[tuple[Fate, str]]) -> tuple[Tensor, Tensor, Tensor]:
    """Rounds with these fates and codecs: Σ δ and Σ q of what counted, and what is owed after.

    What is `late` for good is left out by the aggregator; of what came late it says first that it
    may still count, and what became of it a round later.
    """
    made, sent = torch.zeros(SCHEMA.size).double(), torch.zeros(SCHEMA.size).double()
    told: list[Receipt] = []
    later: list[Receipt] = []
    for number, (fate, codec) in enumerate(fates, start=1):
        header, payload = put(spool, number, codec)
        if fate.startswith("counted"):
            made += delta_of(number).values
            sent += payload
        told, later = later, []
        final = receipt(header, fate.startswith("counted"), "" if "counted" in fate else "refused")
        if fate in ("counted", "refused"):
            told = [*told, final]
        elif fate != "late":
            told = [*told, Receipt("fed", number, "", False, PENDING, 0.0)]
            later = [final]
        spool.settle("fed", number + 1, told)
    spool.settle("fed", len(fates) + 1, later)
    return made, sent, owed(spool, len(fates) + 1).double()


RUNGS = st.sampled_from(["bf16", "int8", "int4"])  # those with β = 1


@settings(max_examples=60, deadline=None)  # they write files
@given(st.lists(st.tuples(st.sampled_from(["counted", "refused", "late"]), RUNGS), max_size=9))
def test_the_sums_over_the_rounds_that_count_differ_by_the_last_debt_alone(
    fates: list[tuple[Fate, str]],
) -> None:
    with TemporaryDirectory() as folder:
        made, sent, debt = course(Spool(Path(folder)), fates)
    assert torch.allclose(made - sent, debt, rtol=0, atol=1e-8)


@settings(max_examples=60, deadline=None)  # they write files
@given(
    st.lists(
        st.tuples(st.sampled_from(["counted", "late", "counted late", "refused late"]), RUNGS),
        max_size=9,
    )
)
def test_a_fate_that_is_learnt_a_round_late_is_made_good(fates: list[tuple[Fate, str]]) -> None:
    with TemporaryDirectory() as folder:
        made, sent, debt = course(Spool(Path(folder)), fates)
    assert torch.allclose(made - sent, debt, rtol=0, atol=1e-8)


def test_topk_lets_a_twentieth_of_the_debt_it_carries_fade(spool: Spool) -> None:
    first, _ = put(spool, 1, "int4")
    spool.settle("fed", 2, [receipt(first, True)])
    debt = owed(spool, 2)
    _, sent = put(spool, 2, "topk")
    after = owed(spool, 3)
    assert torch.equal(after, delta_of(2).values + 0.95 * debt - sent)


def test_a_receipt_that_was_being_written_when_killed_is_asked_for_again(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, _ = put(spool, 1)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("gobelin.client.spool.write_atomic", killed)
        with pytest.raises(KeyboardInterrupt):
            spool.settle("fed", 2, [receipt(made, True)])
    assert spool.entry(1).receipt is None
    assert len(spool.settle("fed", 2, [receipt(made, True)])) == 1
