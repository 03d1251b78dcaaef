"""A node where the recipe has several modalities; what is built on the release of such a one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from gobelin.client.contributor import Contributor
from gobelin.client.evaluate_cli import app as evaluate_app
from gobelin.client.home import NodeHome, NodeSettings, found_node
from gobelin.client.sovereign import load
from gobelin.client.sovereign_cli import app as sovereign_app
from gobelin.client.trainer import LocalSteps, LocalTrainer
from gobelin.protocols.messages import RoundPlan
from gobelin.shared.checkpoint import write_checkpoint
from gobelin.shared.data import BatchStream
from gobelin.shared.errors import ConfigError
from gobelin.shared.fragments import fragment_of_round
from gobelin.shared.keys import write_authority
from gobelin.shared.model import build_jepa
from gobelin.shared.recipe import Recipe, load_recipe
from gobelin.shared.vector import ParameterVector
from tests.client.contributing import in_spool
from tests.two_modalities import write_episodes, write_images, write_recipe


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    return load_recipe(str(write_recipe(tmp_path)))


@pytest.fixture
def base(recipe: Recipe) -> ParameterVector:
    return ParameterVector.of(build_jepa(recipe, 0))


def home_of(folder: Path, modality: str | None, data: Path) -> NodeHome:
    write_authority(folder / "tls", "fed", ["localhost"])
    settings = NodeSettings.model_validate(
        {
            "member": "north",
            "node": "north",
            "aggregator": "host:9092",
            "data": {"path": str(data), "modality": modality},
            "compute": {"device": "cpu", "threads": 1},
        }
    )
    return found_node(folder / "home", settings, folder / "tls" / "ca.pem")


def plan_of(recipe: Recipe, base: ParameterVector, codec: str = "fp32") -> RoundPlan:
    return RoundPlan(
        *("fed", 1, 4, recipe.canonical(), base.schema.digest, base.digest, 2, 7, 60.0), codec=codec
    )


def test_a_node_sends_its_part_and_owes_nothing_of_the_rest(
    recipe: Recipe, base: ParameterVector, tmp_path: Path
) -> None:
    home = home_of(tmp_path, "robot", write_episodes(tmp_path / "data", 1))
    node = Contributor(home, lambda status: None)
    plan = plan_of(recipe, base, "topk")
    sent = in_spool(node, plan, base.segments())
    part = fragment_of_round(base.schema, 1, 1).part("robot")
    assert sent.contribution.modality == "robot"
    assert sent.delta.schema == part.schema != base.schema
    assert {spec.modality for spec in part.schema.tensors} == {"", "robot"}
    owed = node._spool.debt_before(2).owed
    assert owed is not None
    elsewhere = part.put(owed, torch.zeros(part.schema.size))
    assert float(part.take(owed).norm()) > 0
    assert float(elsewhere.norm()) == 0
    again = Contributor(home, lambda status: None)
    assert again.finished(plan) == sent
    assert in_spool(again, plan, base.segments()).payload.digest == sent.payload.digest


@pytest.mark.parametrize(
    ("modality", "says"), [(None, "several modalities"), ("text", "no modality 'text'")]
)
def test_a_node_that_does_not_say_one_of_the_recipes_modalities_trains_nothing(
    recipe: Recipe, base: ParameterVector, tmp_path: Path, modality: str | None, says: str
) -> None:
    home = home_of(tmp_path, modality, write_images(tmp_path / "data", 1))
    with pytest.raises(ConfigError, match=says):
        in_spool(Contributor(home, lambda status: None), plan_of(recipe, base), base.segments())
    assert not (tmp_path / "home" / "spool").exists()


def test_the_inner_state_of_one_modality_comes_back_whole(
    recipe: Recipe, base: ParameterVector, tmp_path: Path
) -> None:
    """Parameters that a member does not train take no steps, and have none to remember."""
    source = recipe.modality("image").open(write_images(tmp_path / "data", 1))
    stream = BatchStream(source, recipe.inner.batch_size, 3)

    def trainer() -> LocalTrainer:
        return LocalTrainer(recipe, stream.batch, modality="image")

    first, again = trainer(), trainer()
    middle, _ = first.train(base, LocalSteps(0, 2, 4, 1, 2))
    state = first.state()
    assert float(state["step"]) == 2
    assert not any(".robot." in name for name in state)
    again.load_state(state)
    ends = [one.train(middle, LocalSteps(2, 2, 4, 1, 2))[0].digest for one in (first, again)]
    assert ends[0] == ends[1]
    for spec in base.schema.tensors:
        if spec.modality == "robot":
            assert torch.equal(middle.tensors()[spec.name], base.tensors()[spec.name])


def test_a_release_is_evaluated_and_built_on_by_modality(
    recipe: Recipe, base: ParameterVector, tmp_path: Path
) -> None:
    write_checkpoint(tmp_path / "release", recipe, base, {"round": 1})
    data, test = write_images(tmp_path / "a", 1), write_images(tmp_path / "b", 2)
    evaluate = [
        "probe",
        str(tmp_path / "release"),
        "--no-attentive",
        "--data",
        str(data),
        "--test",
        str(test),
        "--json",
    ]
    failed = CliRunner().invoke(evaluate_app, evaluate)
    assert isinstance(failed.exception, ConfigError)
    assert "several modalities: image, robot" in str(failed.exception)
    done = CliRunner().invoke(evaluate_app, [*evaluate, "--modality", "image"])
    assert json.loads(done.stdout)["model"]
    build = ["build", "--release", str(tmp_path / "release"), "--data", str(data), "--unverified"]
    build += ["--test", str(test), "--out", str(tmp_path / "ours"), "--home", str(tmp_path)]
    failed = CliRunner().invoke(sovereign_app, build)
    assert isinstance(failed.exception, ConfigError)
    settings = tmp_path / "build.toml"
    settings.write_text('modality = "image"')
    done = CliRunner().invoke(sovereign_app, [*build, "--json", str(settings)])
    assert json.loads(done.stdout.splitlines()[-1])["task"] == "classification"
    model = load(tmp_path / "ours")
    assert model.modality == "image"
    images = recipe.modality("image").open(test).read(torch.arange(5).numpy())
    assert model.predict(images).shape == (5, 2)
