"""What sealed rounds forbid is refused where it is set, and the error says what to change."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from gobelin.server.aggregation import InMemory, weighted_mean
from gobelin.server.cli import app
from gobelin.server.founding import Charter, admit_node, found
from gobelin.server.home import AggregatorHome
from gobelin.server.roster_book import RosterBook
from gobelin.server.sealed_policy import require_sealable
from gobelin.shared.errors import ConfigError, GarbledSumError, NoPlaceError
from gobelin.shared.files import write_atomic
from gobelin.shared.sealing import Ring, bits_for
from tests.keys import node_pub

SEALED = {"sealed": True, "max_staleness": 0, "min_members": 3}
GATELESS = {"collapse_gate": False}


@pytest.mark.parametrize(
    ("change", "remedy"),
    [
        ({"aggregation": {"rule": "median"}}, 'aggregation.rule = "mean"'),
        ({"aggregation": {"rule": "clipped_mean"}}, 'aggregation.rule = "mean"'),
        ({"policy": {**GATELESS, "cap": 0.5}}, "policy.cap = 1.0"),
        ({"policy": {**GATELESS, "probe": "images"}}, "unset policy.probe"),
        ({"policy": {}}, "policy.collapse_gate = false"),
        ({"rounds": {**SEALED, "codec": "int8"}}, 'rounds.codec = "fp32"'),
        ({"rounds": {**SEALED, "cross_node": True}}, "rounds.cross_node = false"),
        ({"rounds": {**SEALED, "max_staleness": 2}}, "rounds.max_staleness = 0"),
        ({"rounds": {**SEALED, "min_members": 2}}, "rounds.min_members = 3"),
        ({"rounds": {**SEALED, "sealed_bound": 0.3}}, "a power of two"),
        ({"rounds": {**SEALED, "sealed_bound": 2.0**20}}, "a power of two"),
        ({"outer": {"fragments": 2}}, "outer.fragments = 1"),
    ],
)
def test_what_needs_single_deltas_is_refused_at_founding(
    tmp_path: Path, change: dict[str, Any], remedy: str
) -> None:
    parts: dict[str, Any] = {"rounds": SEALED, "policy": GATELESS, **change}
    charter = Charter("fed", "toy", "127.0.0.1:0", **parts)
    with pytest.raises(ConfigError) as refused:
        found(tmp_path / "home", charter)
    assert remedy in refused.value.remedy
    assert not (tmp_path / "home").exists()


def home(folder: Path, **rounds: Any) -> AggregatorHome:
    charter = Charter("fed", "toy", "127.0.0.1:0", rounds={**SEALED, **rounds}, policy=GATELESS)
    found(folder / "home", charter)
    return AggregatorHome(folder / "home")


def test_a_second_node_of_a_member_and_one_too_many_are_not_admitted(tmp_path: Path) -> None:
    place = home(tmp_path, sealed_members=2)
    for number in range(3):
        write_atomic(tmp_path / f"{number}.pub", node_pub(number + 1))
    admit_node(place.folder, tmp_path / "0.pub", "north", "one")
    with pytest.raises(NoPlaceError, match="one node a member: one and two are of north"):
        admit_node(place.folder, tmp_path / "1.pub", "north", "two")
    admit_node(place.folder, tmp_path / "1.pub", "south", "two")
    with pytest.raises(NoPlaceError, match="place for 2 nodes, these are 3"):
        admit_node(place.folder, tmp_path / "2.pub", "west", "three")
    assert place.roster().members == ["north", "south"]


def test_of_two_admitted_side_by_side_one_gets_the_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = home(tmp_path)
    for number in range(2):
        write_atomic(tmp_path / f"{number}.pub", node_pub(number + 1))
    turn = RosterBook.change

    def overtaken(book: RosterBook, key_file: Path) -> Any:
        monkeypatch.setattr(RosterBook, "change", turn)
        admit_node(place.folder, tmp_path / "1.pub", "north", "two")
        return turn(book, key_file)

    monkeypatch.setattr(RosterBook, "change", overtaken)
    with pytest.raises(NoPlaceError, match="one node a member: two and one are of north"):
        admit_node(place.folder, tmp_path / "0.pub", "north", "one")
    assert [node.name for node in place.roster().nodes] == ["two"]


def test_an_edited_file_is_refused_by_what_up_looks_at(tmp_path: Path) -> None:
    place = home(tmp_path)
    text = place.settings_file.read_text()
    write_atomic(place.settings_file, text.replace("collapse_gate = false", "").encode())
    with pytest.raises(ConfigError, match="collapse gate"):
        require_sealable(place.settings(), place.recipe())
    place.require_places(place.roster())


@settings(max_examples=60, deadline=None)
@given(data=st.data(), count=st.integers(1, 9), scale=st.sampled_from([1e-6, 1e-3, 0.1, 1.0]))
def test_the_mean_has_the_bits_of_the_open_rounds_mean(
    data: st.DataObject, count: int, scale: float
) -> None:
    seed = data.draw(st.integers(0, 1 << 30))
    nodes = data.draw(st.integers(count, 64))
    bound = data.draw(st.sampled_from([0.25, 1.0, 4.0]))
    ring = Ring(bits_for(nodes, bound), bound)
    generator = torch.Generator().manual_seed(seed)
    held = [ring.round(torch.randn(257, generator=generator) * scale) for _ in range(count)]
    assert all(float(values.abs().max()) <= bound for values in held)
    for values in held:  # on the grid, and nothing is lost by going through integers
        back = ring.words(values).view(np.int32).astype(np.float64) * 2.0**-ring.bits
        assert torch.equal(torch.from_numpy(back), values.double())
        assert torch.equal(ring.round(values), values)
    total = np.sum(np.stack([ring.words(values) for values in held]), axis=0, dtype=np.uint32)
    expected = weighted_mean(InMemory(held), [Fraction(1, count)] * count)
    assert torch.equal(ring.mean(total, count).view(torch.int32), expected.view(torch.int32))


@given(nodes=st.integers(2, 1024), power=st.integers(-8, 8))
def test_a_ring_has_place_for_as_many_deltas_as_it_says(nodes: int, power: int) -> None:
    bound = 2.0**power
    bits = bits_for(nodes, bound)
    assert nodes * bound * 2**bits <= 1 << 30 < nodes * bound * 2 ** (bits + 1)


def test_a_sum_of_words_that_are_no_deltas_is_told(tmp_path: Path) -> None:
    ring = Ring(bits_for(8, 1.0), 1.0)
    noise = np.random.default_rng(0).integers(0, 1 << 32, 64, dtype=np.uint32)
    with pytest.raises(GarbledSumError):
        ring.mean(noise, 8)
    one_too_much = np.array([8 * 2**ring.bits + 1], np.uint32)
    with pytest.raises(GarbledSumError):
        ring.mean(one_too_much, 8)


def test_one_option_founds_a_federation_that_can_be_sealed(tmp_path: Path) -> None:
    options = ["--name", "fed", "--home", str(tmp_path / "home"), "--recipe", "toy"]
    options += ["--address", "127.0.0.1:0", "--sealed"]
    refused = CliRunner().invoke(app, ["init", *options])
    assert isinstance(refused.exception, ConfigError)  # two members are no crowd
    assert "rounds.min_members = 3" in refused.exception.remedy
    told = CliRunner().invoke(app, ["init", *options, "--min-members", "3"])
    assert told.exit_code == 0
    assert "nobody sees a member's delta" in told.output
    settings = AggregatorHome(tmp_path / "home").settings()
    assert settings.rounds.sealed
    assert not settings.policy.collapse_gate
