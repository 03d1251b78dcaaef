"""What the aggregator believes of members with different modalities, and what it looks at."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gobelin.protocols.messages import RoundPlan
from gobelin.server.admission import Admitted, Refusal, admit
from gobelin.server.deltas import GroupedDeltas
from gobelin.server.founding import Charter, found
from gobelin.server.home import AggregatorHome
from gobelin.server.pooling import of_tensors, pool_members, pool_modalities, tensors_of
from gobelin.server.quality import CollapseGate, Examiner
from gobelin.server.rounds import RoundEngine, make_examiner
from gobelin.shared.errors import ConfigError, MomentsError
from gobelin.shared.fragments import SHARED, fragment_of_round
from gobelin.shared.model import build_jepa
from gobelin.shared.objective import Moments
from gobelin.shared.objective.pools import Pools
from gobelin.shared.recipe import Recipe, load_recipe
from gobelin.shared.vector import ParameterSchema, ParameterVector
from tests.answers import contribution, wired
from tests.server.world import World
from tests.two_modalities import write_images, write_recipe


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    return load_recipe(str(write_recipe(tmp_path_factory.mktemp("recipe"))))


@pytest.fixture(scope="module")
def base(recipe: Recipe) -> ParameterVector:
    return ParameterVector.of(build_jepa(recipe, 3))


def judged(
    recipe: Recipe, base: ParameterVector, sent: str, claimed: str, fragments: int = 1
) -> Admitted | Refusal:
    """What becomes of a delta of one modality's part that says it is of another."""
    plan = RoundPlan(
        *("fed", 1, 4, recipe.canonical(), base.schema.digest, base.digest, 5, 7, 60.0),
        fragments=fragments,
    )
    fragment = fragment_of_round(base.schema, fragments, 1)
    schemas = {name: fragment.part(name).schema for name in recipe.told_modalities}
    schema: ParameterSchema = fragment.part(sent).schema
    delta = ParameterVector(schema, torch.full((schema.size,), 0.01))
    header = contribution(plan, delta.digest, modality=claimed).to_bytes()
    return admit(plan, schemas, recipe.projector.out, header, wired(delta.segments()))


@pytest.mark.parametrize("fragments", [1, 2])
@pytest.mark.parametrize("modality", ["image", "robot"])
def test_a_member_sends_what_is_everybodys_and_what_is_its_own(
    recipe: Recipe, base: ParameterVector, modality: str, fragments: int
) -> None:
    admitted = judged(recipe, base, modality, modality, fragments)
    assert isinstance(admitted, Admitted)
    roles = {(t.role, t.modality) for t in admitted.delta.schema.tensors}
    assert {of for _, of in roles} <= {"", modality}
    assert fragments > 1 or {r for r, _ in roles} >= {"tokenizers", "trunk", "projector"}


@pytest.mark.parametrize(
    ("sent", "claimed", "reason"),
    [
        ("image", "text", "modality"),
        ("image", "", "modality"),
        ("", "", "modality"),  # the whole vector is nobody's part
        ("image", "robot", "vector.shape"),
        ("robot", "image", "vector.shape"),
        ("", "image", "vector.shape"),
        ("image", "x" * 10_000, "modality"),
    ],
)
def test_a_payload_that_is_not_of_the_modality_it_claims_is_refused(
    recipe: Recipe, base: ParameterVector, sent: str, claimed: str, reason: str
) -> None:
    refusal = judged(recipe, base, sent, claimed)
    assert isinstance(refusal, Refusal)
    assert refusal.reason == reason
    assert len(refusal.found) < 200


def test_where_there_is_one_modality_none_is_told() -> None:
    recipe = load_recipe("toy")
    base = ParameterVector.of(build_jepa(recipe, 3))
    assert isinstance(judged(recipe, base, "", ""), Admitted)
    refusal = judged(recipe, base, "", "image")
    assert isinstance(refusal, Refusal)
    assert refusal.reason == "modality"


def test_the_gate_looks_at_the_contributions_own_modality(
    recipe: Recipe, base: ParameterVector
) -> None:
    """A tokenizer that answers everything alike is dead for its own members, for them alone."""
    examiner = Examiner({m: CollapseGate(recipe, 3, modality=m) for m in recipe.modalities})
    values = torch.zeros_like(base.values)
    for spec in base.schema.tensors:
        if spec.role == "tokenizers" and spec.modality == "robot":
            start, end = base.schema.offsets[spec.name]
            values[start:end] = -base.values[start:end]
    delta = ParameterVector(base.schema, values)
    refusal = examiner.examine(base, delta, "robot")
    assert isinstance(refusal, Refusal)
    assert refusal.reason == "collapse"
    seen = examiner.examine(base, delta, "image")
    assert isinstance(seen, dict)
    assert seen["frame_rotation"] == pytest.approx(0, abs=1e-3)
    turned = examiner.rotation(base, base + delta)
    assert turned == 0  # of images still, and a dead frame has none


def test_every_modality_has_a_gate(recipe: Recipe, tmp_path: Path) -> None:
    home = founded(tmp_path)
    assert set(make_examiner(recipe, home.settings()).gates) == {"image", "robot"}


def founded(folder: Path, **parts: Any) -> AggregatorHome:
    recipe = str(write_recipe(folder))
    found(folder / "home", Charter("fed", recipe, "127.0.0.1:0", 1, **parts))
    return AggregatorHome(folder / "home")


def test_a_probe_is_refused_where_members_have_several_modalities(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"policy\.probe"):
        founded(tmp_path, policy={"probe": str(write_images(tmp_path / "probe", 1))})
    assert not (tmp_path / "home").exists()
    home = founded(tmp_path)
    text = home.settings_file.read_text()
    home.settings_file.write_text(text.replace("[policy]", f"[policy]\nprobe = '{tmp_path}'"))
    world = World()
    with pytest.raises(ConfigError, match=r"policy\.probe"):  # nor by hand, later
        RoundEngine(home, world, world.clock, world.sleep)


def moments(seed: int) -> Moments:
    return Moments.of(torch.randn(50, 4, generator=torch.Generator().manual_seed(seed)))


def test_moments_are_pooled_by_modality_and_one_member_is_no_pool() -> None:
    seen = {name: moments(i) for i, name in enumerate("abcd")}
    told = {"a": "image", "b": "robot", "c": "image", "d": "text"}
    owners = {"a": "a", "b": "b", "c": "c", "d": "d"}
    modalities = ("image", "robot", "text")
    found = pool_modalities(seen, owners, told, modalities)
    assert found is not None
    assert set(found.pooled) == {"image"}
    both = pool_members({n: seen[n] for n in "ac"}, owners)
    assert both is not None
    assert found.pooled["image"].to_bytes() == both.to_bytes()
    assert pool_modalities({"a": seen["a"], "b": seen["b"]}, owners, told, modalities) is None
    again = of_tensors(tensors_of(found), modalities)
    assert again.to_bytes() == found.to_bytes()


@given(st.sets(st.sampled_from(["image", "robot", "text"]), min_size=1))
def test_pools_are_their_bytes_and_no_others(names: set[str]) -> None:
    told = ("image", "robot", "text")
    pools = Pools(told, {name: moments(len(name)) for name in names})
    data = pools.to_bytes()
    again = Pools.from_bytes(data, 4, told)
    assert set(again.pooled) == names
    assert again.digest == pools.digest
    for wrong in (data[:-1], data + b"\x00", b"\x02" + data[1:], b"\x00\x00\x00", b""):
        with pytest.raises(MomentsError):
            Pools.from_bytes(wrong, 4, told)


def test_deltas_lie_apart_by_group_and_nothing_stays(
    recipe: Recipe, base: ParameterVector, tmp_path: Path
) -> None:
    whole = fragment_of_round(base.schema, 1, 1)
    deltas = GroupedDeltas(tmp_path / "collecting", whole, recipe.told_modalities)
    for name, modality in (("a", "image"), ("b", "robot"), ("c", "image")):
        part = whole.part(modality)
        deltas.add(name, modality, part.of(base))
    held = {group: kept.names for group, kept in deltas.by_group.items()}
    assert held == {SHARED: ["a", "b", "c"], "image": ["a", "c"], "robot": ["b"]}
    for group in whole.groups(recipe.told_modalities):
        kept = deltas.by_group[group.group]
        assert torch.equal(kept.piece(0, 0, kept.size), group.take(base.values))
    deltas.keep_only(["b"])
    assert [len(kept) for kept in deltas.by_group.values()] == [1, 0, 1]
    deltas.remove()
    assert not (tmp_path / "collecting").exists()


def test_the_recipe_on_the_wire_is_the_recipe(recipe: Recipe) -> None:
    assert Recipe.model_validate(json.loads(recipe.canonical())) == recipe
