"""The sovereign build: every method moves what it says, and nothing that is worse is ever taken."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from gobelin.client.sovereign import Given, make_model, write_package
from gobelin.client.sovereign.frozen import fit_frozen
from gobelin.client.sovereign.labels import open_task
from gobelin.client.sovereign.lora import targets_of
from gobelin.client.sovereign.pretrain import rehearsed
from gobelin.client.sovereign.settings import BuildSettings, example
from gobelin.client.sovereign.tune import gain_of, steps_for
from gobelin.shared.data import MemorySource
from gobelin.shared.errors import BuildError, DataError
from gobelin.shared.model import encoder_of
from gobelin.shared.recipe import Recipe, load_recipe
from gobelin.shared.settings import parse_settings
from gobelin.shared.signing import SigningKey
from gobelin.shared.vector import ParameterVector
from tests.client.sovereign_world import (
    consensus,
    labelled,
    made_up,
    settings,
    shrunk,
)
from tests.two_modalities import RECIPE, write_episodes

KEY = SigningKey.generate()


def moved(before: ParameterVector, after: ParameterVector) -> set[str]:
    """Names of the tensors that differ."""
    old, new = before.tensors(), after.tensors()
    return {name for name in old if not torch.equal(old[name], new[name])}


@pytest.mark.parametrize("method", ["linear", "attentive", "lora", "partial", "full"])
def test_every_method_tells_the_regions_classes(method: str, tmp_path: Path) -> None:
    base = consensus()
    test = labelled(60, seed=1)
    rates = {"lora": 2e-2, "partial": 1e-2, "full": 5e-3}
    wanted = settings(method, tuning={"steps": 24, "lr": rates.get(method)})
    model = make_model(base, Given(labelled(80), test), wanted)
    found = model.lineage.evaluation
    assert found["accuracy"] > (75 if "frozen" in found else 60)
    assert found["accuracy"] >= found.get("frozen", found)["accuracy"]
    assert (found["on"], found["samples"]) == ("test", 60)
    images = test.read(torch.arange(60).numpy())
    told = write_package(tmp_path / "ours", model, KEY).predict(images).argmax(dim=1)
    assert test.labels is not None
    assert 100 * float((told == test.labels).double().mean()) == pytest.approx(found["accuracy"])
    changed = moved(base.vector, model.vector)
    if method in ("linear", "attentive"):
        assert not changed
        assert model.lineage.steps == 0
    if method == "lora":
        assert changed == set(targets_of(base.recipe, "image", "all"))
    if method == "partial":
        assert changed
        assert all(name.startswith("trunk.") for name in changed)
    if method == "full":
        assert any(name.startswith("tokenizers.image.") for name in changed)
        assert not any(
            name.startswith("projector.") for name in changed
        )  # labels say nothing of it
    assert base.vector.digest == consensus().vector.digest


def test_partial_moves_the_last_blocks_alone() -> None:
    values = load_recipe("toy").model_dump(mode="json")
    values["trunk"]["depth"] = 3
    base = consensus(Recipe.model_validate(values))
    wanted = settings("partial", blocks=2, tuning={"steps": 24, "lr": 1e-2})
    made = make_model(base, Given(labelled(80)), wanted)
    places = {".".join(name.split(".")[:3]) for name in moved(base.vector, made.vector)}
    assert {"trunk.blocks.1", "trunk.blocks.2"} <= places
    assert "trunk.blocks.0" not in places
    with pytest.raises(BuildError, match="the release's trunk has 3"):
        make_model(base, Given(labelled()), settings("partial", blocks=4))


def test_with_labels_all_of_the_model_moves_and_without_it_is_pretrained() -> None:
    unlabelled = MemorySource(labelled(40).read(torch.arange(40).numpy()))
    chosen = {
        "few": make_model(consensus(), Given(labelled(30)), settings("auto")),
        "none": make_model(consensus(), Given(unlabelled), settings("auto", pretrain={"steps": 2})),
    }
    methods = {name: model.lineage.method for name, model in chosen.items()}
    assert methods == {"few": "full", "none": "pretrain"}
    assert [steps_for(n, 32) for n in (10, 1000, 10**6)] == [200, 625, 2000]


def test_a_gain_has_to_be_more_than_its_standard_error() -> None:
    before = torch.tensor([1.0, 2.0, 3.0, 4.0])
    even = gain_of(before, before - torch.tensor([0.4, 0.5, 0.6, 0.5]))
    assert (even.mean, even.exceeds(1.0)) == (pytest.approx(0.5), True)
    lucky = gain_of(before, before - torch.tensor([4.0, -1.0, -1.0, -1.0]))
    assert (lucky.mean, lucky.exceeds(1.0)) == (pytest.approx(0.25), False)
    assert lucky.exceeds(0.0)
    alone = gain_of(before[:1], before[:1] - 1)
    assert (alone.error, alone.exceeds(1.0), alone.exceeds(0.0)) == (None, False, True)
    assert not gain_of(before, before).exceeds(0.0)


def test_where_a_test_set_measures_a_head_learns_what_was_held_out_too() -> None:
    data, test, wanted = labelled(80), labelled(40, seed=1), settings("linear")
    given = Given(data, test)
    task = open_task(data, test, budget=100, held_out=0.2, seed=wanted.seed)
    assert (len(task.train), len(task.held), len(task.complete.train)) == (64, 16, 80)
    base = consensus()
    encoder = encoder_of(base.recipe, base.vector)
    for opened, known in ((given, task.complete), (Given(data), task)):
        made = make_model(base, opened, wanted).head
        assert made is not None
        again = fit_frozen(encoder, known, made.kind, "loss", wanted.seed, "cpu")  # type: ignore[arg-type]
        assert torch.equal(made.linear.weight, again.linear.weight)  # type: ignore[union-attr,arg-type]


@pytest.mark.parametrize("method", ["full", "lora"])
def test_what_is_no_clear_gain_leaves_the_release_and_its_head(method: str, tmp_path: Path) -> None:
    base = consensus()
    quick = {"steps": 40, "lr": 2e-2}
    taken = make_model(base, Given(labelled(80)), settings(method, tuning=quick))
    assert taken.lineage.evaluation["tune"]["taken"]
    unclear = {**quick, "least_gain": 100.0}
    left = make_model(base, Given(labelled(80)), settings(method, tuning=unclear))
    alone = make_model(base, Given(labelled(80)), settings("linear"))
    assert left.vector.digest == base.vector.digest
    assert left.lineage.steps == 0
    assert not any(name.startswith("adapter") for name in left.files)
    samples = labelled(20, seed=3).read(torch.arange(20).numpy())
    assert torch.equal(left.predict(samples), alone.predict(samples))
    assert left.lineage.evaluation["accuracy"] == alone.lineage.evaluation["accuracy"]
    card = write_package(tmp_path / "ours", left, KEY).files["README.md"]
    assert isinstance(card, Path)
    assert "was not taken" in card.read_text()


def test_what_is_worse_on_held_out_samples_is_never_taken() -> None:
    base = consensus()
    hot = settings("full", tuning={"lr": 10.0, "patience": 1, "augment": False})
    model = make_model(base, Given(labelled()), hot)
    assert model.lineage.evaluation["tune"]["best_step"] == 0
    assert model.lineage.evaluation["tune"]["steps"] == 4  # one look, and no patience left
    assert model.vector.digest == base.vector.digest
    frozen = make_model(base, Given(labelled()), settings("linear"))
    assert frozen.head is not None
    assert model.head is not None
    images = labelled(9, seed=3).read(torch.arange(9).numpy())
    assert torch.equal(model.predict(images), frozen.predict(images))


def test_the_same_build_gives_the_same_model_and_another_seed_another() -> None:
    one, same, other = (
        make_model(consensus(), Given(labelled()), settings("lora", seed=seed))
        for seed in (1, 1, 2)
    )
    assert one.vector.digest == same.vector.digest != other.vector.digest
    assert one.lineage == same.lineage


def test_bf16_is_autocast_and_the_model_stays_fp32() -> None:
    found = {}
    for precision in ("fp32", "bf16"):
        wanted = settings("full", compute={"precision": precision}, tuning={"steps": 24})
        found[precision] = make_model(consensus(), Given(labelled(80)), wanted)
    half, whole = found["bf16"], found["fp32"]
    assert half.vector.digest != whole.vector.digest
    assert half.vector.values.dtype == torch.float32
    assert torch.allclose(half.vector.values, whole.vector.values, atol=0.1)
    loss = half.lineage.evaluation["tune"]
    assert loss["loss"] < loss["loss_before"]


@pytest.mark.parametrize(("method", "balance"), [("linear", "loss"), ("full", "sampling")])
def test_a_rare_class_is_heard(method: str, balance: str) -> None:
    rare, test = labelled(150, share=0.06), labelled(80, seed=1)
    found = {}
    for name in ("none", balance):
        wanted = settings(method, labels={"balance": name}, tuning={"steps": 24})
        found[name] = make_model(consensus(), Given(rare, test), wanted).lineage.evaluation
    assert found[balance]["balanced"] > found["none"]["balanced"]


@pytest.mark.parametrize("name", ["series_tiny", "text_tiny", "video_tiny"])
def test_every_modality_is_pretrained_and_tuned(name: str) -> None:
    recipe = shrunk(name)
    base, data = consensus(recipe), made_up(recipe)
    wanted = settings("lora", pretrain={"steps": 2, "every": 2}, tuning={"steps": 3})
    model = make_model(base, Given(data), wanted)
    assert set(model.lineage.evaluation) >= {"pretrain", "tune", "accuracy"}
    assert model.predict(data.read(torch.arange(3).numpy())).shape == (3, 2)


def of_robot(folder: Path) -> tuple[Any, Given]:
    recipe = parse_settings(Recipe, RECIPE, "test")
    kind = recipe.modality("robot")
    episodes = Given(
        kind.open(write_episodes(folder / "new", 1)),
        rehearsal=kind.open(write_episodes(folder / "old", 2)),
    )
    return consensus(recipe), episodes


@pytest.mark.parametrize("moves", ["full", "partial", "lora", "predictor"])
def test_a_world_model_learns_new_dynamics_from_few_trajectories(
    moves: str, tmp_path: Path
) -> None:
    base, given = of_robot(tmp_path)
    wanted = settings(
        "auto",
        modality="robot",
        pretrain={
            "steps": 40,
            "every": 20,
            "moves": moves,
            "lr": 3e-3,
            "held_out": 0.2,
            "rehearsal": "old",
        },
    )
    model = make_model(base, given, wanted)
    assert (model.task, model.lineage.method) == ("world model", "pretrain")
    loss = model.lineage.evaluation["pretrain"]
    assert loss["loss"] < loss["loss_before"]
    changed = moved(base.vector, model.vector)
    assert any(name.startswith("predictors.robot.") for name in changed)
    assert not any(".image." in name for name in changed)
    if moves == "predictor":
        assert all(name.startswith("predictors.robot.") for name in changed)
    if moves == "partial":
        assert not any(name.startswith("tokenizers.") for name in changed)
    assert ("adapter/adapter_config.json" in model.files) == (moves == "lora")
    batch = given.data.read(torch.arange(4).numpy())
    assert model.world_model().surprise(batch).shape == (4, 3)


def test_without_a_predictor_there_is_none_to_move() -> None:
    wanted = settings("pretrain", pretrain={"moves": "predictor"})
    with pytest.raises(BuildError, match="has no predictor"):
        make_model(consensus(), Given(labelled()), wanted)


def test_rehearsed_batches_hold_own_and_public_samples() -> None:
    own, public = (MemorySource(torch.full((9, 1, 28, 28), n, dtype=torch.uint8)) for n in (1, 2))
    batches = rehearsed(own, public, 8, 0.25, seed=0)
    batch = batches(3)
    assert isinstance(batch, Tensor)
    assert batch[:, 0, 0, 0].tolist() == [1] * 6 + [2] * 2
    assert len(rehearsed(own, None, 8, 0.25, seed=0)(0)) == 8


@pytest.mark.parametrize("name", ["data", "rehearsal"])
def test_samples_that_settings_name_have_to_be_given_and_looked_at(name: str) -> None:
    wanted = settings("pretrain", pretrain={"steps": 2, name: "elsewhere"})
    with pytest.raises(BuildError, match=f"pretrain.{name} names elsewhere, and its samples"):
        make_model(consensus(), Given(labelled()), wanted)
    both = Given(labelled(), unlabelled=labelled(), rehearsal=labelled())
    with pytest.raises(BuildError, match="and nothing is pre-trained"):
        make_model(consensus(), both, settings("linear", pretrain={name: "elsewhere"}))


def test_the_lineage_states_what_was_trained_on_and_no_more() -> None:
    both = Given(labelled(), unlabelled=labelled(30, seed=1), rehearsal=labelled(30, seed=2))

    def stated(method: str, **pretrain: Any) -> list[str]:
        model = make_model(consensus(), both, settings(method, pretrain=pretrain))
        return [said.name for said in model.lineage.data]

    assert stated("linear") == ["data"]
    assert stated("linear", steps=2) == ["data", "pre-training"]
    everything = ["data", "pre-training", "rehearsal"]
    assert stated("linear", steps=2, rehearsal="old") == everything


def test_an_anchor_keeps_the_model_near_the_release() -> None:
    base = consensus()

    def far(**how: Any) -> float:
        wanted = settings("pretrain", pretrain={"steps": 20, "every": 20, "lr": 3e-3, **how})
        return (make_model(base, Given(labelled()), wanted).vector - base.vector).norm()

    assert 0 < far(anchor=10.0) < 0.7 * far()


def test_the_lineage_tells_of_data_by_digest_alone() -> None:
    said = make_model(consensus(), Given(labelled()), settings("linear")).lineage.data[0]
    same = make_model(consensus(), Given(labelled()), settings("linear")).lineage.data[0]
    other = make_model(consensus(), Given(labelled(seed=1)), settings("linear")).lineage.data[0]
    assert said == same
    assert said.digest != other.digest
    assert (said.samples, sum(said.counts), said.classes) == (60, 60, ("high", "low"))


def test_too_few_samples_or_none_with_labels_are_refused() -> None:
    with pytest.raises(BuildError, match="too few"):
        make_model(consensus(), Given(labelled(19)), settings("pretrain"))
    unlabelled = MemorySource(labelled().read(torch.arange(60).numpy()))
    with pytest.raises(DataError, match="no labels"):
        make_model(consensus(), Given(unlabelled), settings("full"))


def test_the_example_has_every_setting_at_its_default() -> None:
    given = parse_settings(BuildSettings, example(), "example.toml")
    defaults = BuildSettings(release=given.release, data=given.data, out=given.out)
    assert given == defaults
    named = set(BuildSettings.model_fields)
    for table in ("labels", "head", "tuning", "pretrain", "lora", "compute"):
        named |= set(type(getattr(defaults, table)).model_fields)
    assert [name for name in named if name not in example()] == []
