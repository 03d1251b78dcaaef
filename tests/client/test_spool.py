"""The spool keeps finished contributions until two later rounds have been trained."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from gobelin.client.spool import DELTA, HEADER, INNER, Spool
from gobelin.protocols.messages import Contribution
from gobelin.shared.codec import Payload, compress
from gobelin.shared.errors import GobelinError, StateError
from gobelin.shared.vector import ParameterSchema, ParameterVector

SCHEMA = ParameterSchema.of_shapes({"trunk.w": (3, 2), "trunk.b": (3,)})


def delta(number: int) -> ParameterVector:
    return ParameterVector(SCHEMA, torch.arange(SCHEMA.size) + 10.0 * number)


def payload(number: int) -> Payload:
    return compress("fp32", delta(number), None).payload


def contribution(number: int, plan: str = "plan") -> Contribution:
    digest = payload(number).digest
    return Contribution(
        "fed", number, f"{plan}-{number}", "base", digest, 3, 48, 1.5, {"loss": 1.0}
    )


def inner(number: int) -> dict[str, Tensor]:
    return {"step": torch.tensor(float(number)), "exp_avg.w": torch.full((3, 2), float(number))}


def put(spool: Spool, *numbers: int) -> None:
    for number in numbers:
        spool.put(contribution(number), payload(number), inner(number))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "spool"


@pytest.fixture
def spool(folder: Path) -> Spool:
    return Spool(folder)


def test_what_was_put_is_found_also_by_the_next_process(spool: Spool, folder: Path) -> None:
    put(spool, 1)
    for each in (spool, Spool(folder)):
        found = each.find("plan-1", 1, SCHEMA)
        assert found is not None
        assert found.contribution == contribution(1)
        assert found.delta.digest == delta(1).digest
        assert found.payload.digest == found.contribution.delta_digest


def test_an_empty_spool_holds_nothing_and_makes_no_folder(spool: Spool, folder: Path) -> None:
    assert spool.rounds() == []
    assert spool.find("plan-1", 1, SCHEMA) is None
    assert spool.last_before(5) == 0
    assert spool.inner_after(0) == {}
    assert not folder.exists()


def test_another_plan_for_the_same_round_is_not_answered_by_the_old_one(spool: Spool) -> None:
    put(spool, 1)
    assert spool.find("plan-1", 2, SCHEMA) is None
    assert spool.find("another", 1, SCHEMA) is None


def test_a_round_trained_again_replaces_the_old_one(spool: Spool) -> None:
    put(spool, 1)
    again = replace(contribution(1, "again"), delta_digest=payload(7).digest)
    spool.put(again, payload(7), inner(7))
    assert spool.find("plan-1", 1, SCHEMA) is None
    found = spool.find("again-1", 1, SCHEMA)
    assert found is not None
    assert found.delta.digest == delta(7).digest
    assert spool.inner_after(1)["step"] == 7


def test_the_inner_state_is_that_of_the_last_round_before(spool: Spool) -> None:
    put(spool, 1, 2)
    assert spool.last_before(1) == 0
    for asked, expected in ((2, 1), (3, 2), (9, 2)):
        assert spool.last_before(asked) == expected
        state = spool.inner_after(expected)
        assert state.keys() == inner(expected).keys()
        assert all(torch.equal(state[k], t) for k, t in inner(expected).items())


def test_the_last_two_rounds_are_kept(spool: Spool, folder: Path) -> None:
    for last, kept in ((1, [1]), (2, [1, 2]), (3, [2, 3]), (7, [3, 7])):
        put(spool, last)
        assert spool.rounds() == kept
    assert sorted(path.name for path in folder.iterdir()) == ["round-00003", "round-00007"]


def test_rounds_are_ordered_as_numbers(spool: Spool) -> None:
    put(spool, 99_999, 100_000)
    assert spool.rounds() == [99_999, 100_000]
    assert spool.last_before(100_001) == 100_000


def test_a_crash_while_putting_leaves_no_contribution(
    spool: Spool, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(spool, 1)

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("gobelin.client.spool.save_file", crash)
    with pytest.raises(KeyboardInterrupt):
        put(spool, 2)
    assert spool.rounds() == [1]
    assert [path.name for path in folder.iterdir()] == ["round-00001"]


def test_a_crash_while_an_old_contribution_is_dropped_leaves_no_half_of_it(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(spool, 1, 2)

    def crash(folder: Path, *_: object) -> None:
        (folder / HEADER).unlink()
        raise KeyboardInterrupt

    monkeypatch.setattr("shutil.rmtree", crash)
    with pytest.raises(KeyboardInterrupt):
        put(spool, 3)
    assert spool.rounds() == [2, 3]
    assert [spool.entry(number).contribution.round for number in (2, 3)] == [2, 3]


@pytest.mark.parametrize("data", [b"", b"{}", b"\xff\xfe\x00", b'{"kind":"Farewell"}'])
def test_a_damaged_header_is_a_state_error(data: bytes, spool: Spool, folder: Path) -> None:
    put(spool, 1)
    (folder / "round-00001" / HEADER).write_bytes(data)
    with pytest.raises(StateError, match=r"round-00001 is damaged"):
        spool.find("plan-1", 1, SCHEMA)


@pytest.mark.parametrize("how", ["cut", "empty", "gone"])
@pytest.mark.parametrize("name", [DELTA, INNER])
def test_a_damaged_tensor_file_is_one_of_our_errors(
    name: str, how: str, spool: Spool, folder: Path
) -> None:
    put(spool, 1)
    file = folder / "round-00001" / name
    if how == "gone":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[: -4 if how == "cut" else 0])
    with pytest.raises(GobelinError):
        spool.find("plan-1", 1, SCHEMA) if name == DELTA else spool.inner_after(1)


def test_a_flipped_bit_in_a_delta_is_never_sent(spool: Spool, folder: Path) -> None:
    put(spool, 1)
    file = folder / "round-00001" / DELTA
    data = bytearray(file.read_bytes())
    data[-2] ^= 1
    file.write_bytes(data)
    assert load_file(file).keys() == set(SCHEMA.segments)
    try:
        found = spool.find("plan-1", 1, SCHEMA)
    except GobelinError:
        return
    assert found is None or found.payload.digest == contribution(1).delta_digest


def test_a_contribution_is_kept_also_when_the_federation_went_back(spool: Spool) -> None:
    """An aggregator restored from a backup offers rounds again that the node has passed."""
    put(spool, 9, 10)
    spool.put(contribution(5, "again"), payload(5), inner(5))
    assert spool.find("again-5", 5, SCHEMA) is not None
    assert spool.last_before(6) == 5
