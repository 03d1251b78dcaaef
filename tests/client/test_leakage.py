"""Leakage: an attack that must succeed does, and what an audit is asked for is checked."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from gobelin.client.audit_cli import app
from gobelin.client.home import DataSettings, NodeHome, NodeSettings
from gobelin.client.leakage import Audit, audit_leakage
from gobelin.client.leakage.audit import settings_of
from gobelin.client.leakage.inversion import (
    CONTROL_DB,
    invert_update,
    positive_control,
    psnr,
    require_invertible,
)
from gobelin.client.leakage.membership import COMPANY, Scorer, separate
from gobelin.client.leakage.subject import open_subject
from gobelin.client.leakage.update import Planted, Setting, make_update
from gobelin.protocols.messages import RoundPlan
from gobelin.shared.data import MemorySource
from gobelin.shared.data.export import write_idx
from gobelin.shared.errors import ConfigError, DataError
from gobelin.shared.model import build_jepa
from gobelin.shared.objective import OBJECTIVES, Draw
from gobelin.shared.recipe import Recipe, load_recipe
from gobelin.shared.release.evidence import read_evidence
from gobelin.shared.seeds import derive_seed, generator_of
from gobelin.shared.settings import write_settings
from gobelin.shared.vector import ParameterVector


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return load_recipe("toy")


def images(recipe: Recipe, count: int, seed: int) -> torch.Tensor:
    made = recipe.modality().made_up(count, torch.Generator().manual_seed(seed))
    assert isinstance(made, torch.Tensor)
    return made


def garments(recipe: Recipe, count: int, seed: int) -> torch.Tensor:
    """Smooth patterns in one outline."""
    outline = torch.zeros(28, 28)
    outline[4:24, 9:19] = outline[4:10, 3:25] = 1
    return (images(recipe, count, seed) * outline).byte()


def test_the_control_recovers_an_image_from_its_plain_gradient() -> None:
    tiny = load_recipe("tiny")
    trunk = tiny.trunk.model_copy(update={"dim": 64, "depth": 1})
    projector = tiny.projector.model_copy(update={"hidden": 64})
    recipe = tiny.model_copy(update={"trunk": trunk, "projector": projector})
    image, others = garments(recipe, 1, seed=0), garments(recipe, 50, seed=1)
    mean = others.double().mean(dim=0) / 255
    found = positive_control(recipe, None, image, mean, iterations=150, seed=0)
    assert found.psnr_db > CONTROL_DB
    assert found.over_mean_db > 10


def test_a_budget_too_small_for_the_control_makes_an_audit_inconclusive(recipe: Recipe) -> None:
    source = MemorySource(images(recipe, 150, seed=0))
    asked = Audit((Setting(1, 4),), samples=64, scored=8, canaries=8, images=2, iterations=1)
    report = audit_leakage(recipe, None, source, asked)
    assert report.control is not None
    assert not report.conclusive
    assert report.facts()["conclusive"] is False


def test_the_attacker_knows_the_true_batch_when_it_sees_it(recipe: Recipe) -> None:
    """Views, slices, loss, AdamW and decay are modelled, or truth would not match its update."""
    source = MemorySource(images(recipe, 40, seed=0))
    base = ParameterVector.of(build_jepa(recipe, seed=0))
    update = make_update(recipe, None, source, base, Setting(1, 4), "fp32", 0, 7)
    truth = source.read(update.first).double() / 255
    unseen = images(recipe, 40, seed=1).double() / 255
    mean = unseen.mean(dim=0)
    right = invert_update(recipe, None, update, truth, unseen, mean, 4, 1)
    wrong = invert_update(recipe, None, update, unseen, truth, mean, 4, 1)
    assert right.mismatch_of_truth < 0.15
    assert wrong.mismatch_of_truth > 0.5


def test_psnr_is_twenty_db_at_a_tenth_of_the_range() -> None:
    assert psnr(torch.full((1, 2, 2), 0.5), torch.full((1, 2, 2), 0.6)).item() == pytest.approx(20)


def test_separation_is_that_of_ranks() -> None:
    others = torch.arange(100.0)
    found = separate(torch.tensor([98.5, 200.0, -1.0]), others)
    assert found.tpr == pytest.approx(2 / 3)  # one of a hundred others may lie above
    assert found.auc == pytest.approx((99 + 100 + 0) / 300)
    assert separate(others, others).auc == pytest.approx(0.5)


def test_a_step_down_a_samples_own_gradient_gives_it_away(recipe: Recipe) -> None:
    """The scores succeed where they must: on a plain gradient step of one sample."""
    samples = images(recipe, 30, seed=0)
    base = ParameterVector.of(build_jepa(recipe, seed=0))
    source = MemorySource(samples)
    update = make_update(recipe, None, source, base, Setting(1, 4), "fp32", 0, 7)
    company = images(recipe, COMPANY, seed=2)
    model = build_jepa(recipe, seed=0)
    encoder, seed = model.encoder(), derive_seed(0, "membership", 0)
    draw = Draw(generator_of(seed, "views"), derive_seed(seed, "slices"))
    loss = recipe.objective_of()(encoder, torch.cat([samples[:1], company]), draw)[0].total
    loss.backward()  # type: ignore[no-untyped-call]
    steps = {name: -1e-3 * p.grad for name, p in model.named_parameters() if p.grad is not None}
    step = ParameterVector.of_tensors(base.schema, steps)
    scorer = Scorer(recipe, None, replace(update, delta=step), company)
    scores = scorer.scores(samples)
    found = separate(scores["direction"][:1], scores["direction"][1:])
    assert (found.auc, found.tpr) == (1.0, 1.0)
    assert scores["direction"][0] / step.norm() == pytest.approx(1, abs=0.05)


def test_canaries_lie_behind_the_samples() -> None:
    own, planted = torch.zeros(3, 1, 2, 2, dtype=torch.uint8), torch.ones(2, 1, 2, 2).byte()
    source = Planted(MemorySource(own), planted)
    assert len(source) == 5
    assert source.read(np.array([4, 0, 3]))[:, 0, 0, 0].tolist() == [1, 0, 1]


def test_what_is_seen_is_what_the_trainer_drew(recipe: Recipe) -> None:
    source = MemorySource(images(recipe, 40, seed=0))
    base = ParameterVector.of(build_jepa(recipe, seed=0))
    update = make_update(recipe, None, source, base, Setting(3, 4), "int8", 0, 7)
    assert len(update.seen) == 12
    assert set(update.first) < set(update.seen)
    assert update.delta.norm() > 0


def test_settings_that_cannot_be_are_refused() -> None:
    assert settings_of([1, 10], [2], 64) == [Setting(1, 64), Setting(10, 64), Setting(1, 2)]
    with pytest.raises(ConfigError, match="one local step"):
        settings_of([0], [], 64)
    with pytest.raises(ConfigError, match="batches of 2"):
        settings_of([1], [1], 64)


def test_inversion_is_refused_where_it_is_not_written(recipe: Recipe) -> None:
    table = OBJECTIVES.load("byol").Table()
    other = recipe.model_copy(update={"objective": table})
    with pytest.raises(ConfigError, match="--no-inversion"):
        require_invertible(other, None)


@pytest.fixture
def data(tmp_path: Path, recipe: Recipe) -> Path:
    write_idx(tmp_path / "train", images(recipe, 150, seed=0), torch.zeros(150, dtype=torch.int64))
    return tmp_path / "train"


def run(data: Path, *options: str) -> Any:
    small = ["--samples", "64", "--canaries", "8", "--images", "2", "--iterations", "2"]
    return CliRunner().invoke(
        app, ["leakage", "--data", str(data), "--recipe", "toy", *small, *options]
    )


def test_the_command_writes_json_and_a_plot(data: Path, tmp_path: Path) -> None:
    out, plot = tmp_path / "leakage.json", tmp_path / "leakage.png"
    files = ["--out", str(out), "--plot", str(plot)]
    done = run(data, "--local-steps", "1,3", "--batch-sizes", "4", "--json", *files)
    assert done.exit_code == 0, done.output
    facts = json.loads(done.stdout)
    assert json.loads(out.read_text()) == facts
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert read_evidence(out, load_recipe("toy").digest) == ("leakage.json", facts)
    assert facts["privacy"] == "no DP: empirical leakage only"
    steps = [(each["local_steps"], each["batch_size"]) for each in facts["settings"]]
    assert steps == [(1, recipe_batch()), (3, recipe_batch()), (1, 4)]
    assert math.isfinite(facts["settings"][0]["inversion"]["over_mean_db"])
    assert 0 <= facts["settings"][1]["membership"]["loss"]["auc"] <= 1


def recipe_batch() -> int:
    return load_recipe("toy").inner.batch_size


def test_an_audit_repeats_to_the_byte(data: Path) -> None:
    options = ["--local-steps", "1", "--batch-sizes", "", "--json", "--seed", "3"]
    assert run(data, *options).stdout == run(data, *options).stdout


def test_too_few_samples_are_an_error(tmp_path: Path, recipe: Recipe) -> None:
    write_idx(tmp_path / "few", images(recipe, 100, seed=0), torch.zeros(100, dtype=torch.int64))
    assert isinstance(run(tmp_path / "few").exception, DataError)


def test_a_node_is_audited_under_its_last_plan(data: Path, tmp_path: Path, recipe: Recipe) -> None:
    home = NodeHome(tmp_path / "node")
    home.folder.mkdir()
    settings = NodeSettings(
        member="one", node="one-1", aggregator="127.0.0.1:1", data=DataSettings(path=data)
    )
    write_settings(home.settings_file, settings)
    with pytest.raises(ConfigError, match="--recipe"):
        open_subject(home.folder, None, None, None, None)
    base = ParameterVector.of(build_jepa(recipe, seed=0))
    plan = RoundPlan(
        federation="fed",
        round=1,
        rounds=4,
        recipe=recipe.canonical(),
        schema_digest=base.schema.digest,
        base_digest=base.digest,
        local_steps=2,
        seed=7,
        deadline_s=60.0,
    )
    home.plan_file.write_bytes(plan.to_bytes())
    subject = open_subject(home.folder, None, None, None, None)
    assert subject.recipe == recipe
    assert subject.node_seed == derive_seed(7, "node", "one-1")
    assert len(subject.source) == 150
    with pytest.raises(ConfigError, match="either --home or --data"):
        open_subject(home.folder, data, None, None, None)
    home.plan_file.write_bytes(b"{")
    with pytest.raises(ConfigError, match="holds no round plan"):
        open_subject(home.folder, None, None, None, None)


def test_an_audit_is_of_one_node_and_one_recipe(data: Path) -> None:
    with pytest.raises(ConfigError, match="either --home or --data"):
        open_subject(None, None, "toy", None, None)
    with pytest.raises(ConfigError, match="--recipe"):
        open_subject(None, data, None, None, None)
    with pytest.raises(ConfigError, match="of its own"):
        open_subject(None, data, "toy", data, None)
