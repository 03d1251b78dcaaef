"""`gobelin sovereign rebase` and `merge`: a region's build goes on, and goes together."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from gobelin.client.sovereign.build import Given, make_model
from gobelin.client.sovereign.consensus import Consensus
from gobelin.client.sovereign.head import LinearHead, PooledHead
from gobelin.client.sovereign.lineage import Origin
from gobelin.client.sovereign.merge import JOINED, join_heads, merge_models
from gobelin.client.sovereign.merging import Ties, Weights
from gobelin.client.sovereign.package import SovereignModel, load, write_package
from gobelin.client.sovereign.rebase import Rebaser, RebaseSettings, find_release
from gobelin.client.sovereign.settings import BuildSettings
from gobelin.client.sovereign_cli import app
from gobelin.shared.checkpoint import write_checkpoint
from gobelin.shared.data import MemorySource
from gobelin.shared.data.export import write_image_folder
from gobelin.shared.errors import GobelinError, MergeError, RebaseError
from gobelin.shared.frame import Frame
from gobelin.shared.model import build_jepa
from gobelin.shared.recipe import load_recipe
from gobelin.shared.seeds import generator_of
from gobelin.shared.signing import SigningKey
from gobelin.shared.vector import ParameterVector
from tests.client.sovereign_task import NAMES, squares

RECIPE = load_recipe("toy")
BARE = "[evaluation]\nresamples = 100\nshots = []\nshifted_samples = 0\n"


def consensus(number: int) -> Consensus:
    """Release 2 is release 1, moved on a little."""
    values = ParameterVector.of(build_jepa(RECIPE, 0)).values.clone()
    for step in range(1, number):
        values += 0.01 * torch.randn(len(values), generator=generator_of(step, "moved"))
    vector = ParameterVector(ParameterVector.of(build_jepa(RECIPE, 0)).schema, values)
    origin = Origin(federation="weavers", round=number, vector_digest=vector.digest)
    return Consensus(RECIPE, vector, origin)


OLD, NEW = consensus(1), consensus(2)


def built(region: str, seed: int) -> SovereignModel:
    """A build that has moved the whole model, by noise of its own: eight steps come to nothing."""
    tuning = {"steps": 8, "every": 8, "batch_size": 16, "augment": False, "lr": 5e-3}
    settings = BuildSettings(
        release=Path("-"),
        data=Path("-"),
        out=Path("-"),
        region=region,
        method="full",
        seed=seed,
        tuning=tuning,
        head={"kind": "pooled"},
    )
    model = make_model(OLD, Given(squares(120, seed)), settings)
    noise = torch.randn(OLD.vector.schema.size, generator=generator_of(seed, "delta"))
    return replace(model, vector=OLD.vector + ParameterVector(OLD.vector.schema, 0.002 * noise))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two releases, two signed builds on the first, and the region's data."""
    folder = tmp_path_factory.mktemp("world")
    for number, release in ((1, OLD), (2, NEW)):
        facts = {"federation": "weavers", "round": number}
        write_checkpoint(folder / "releases" / f"r{number}", RECIPE, release.vector, facts)
    for name, seed in (("east", 0), ("west", 3)):
        write_package(folder / name, built(name, seed), SigningKey.generate())
    (folder / "bare.toml").write_text(BARE)
    for name, seed, count in (("data", 0, 120), ("test", 9, 60)):
        source = squares(count, seed)
        assert source.labels is not None
        pictures = source.read(np.arange(count))
        write_image_folder(folder / name, pictures, source.labels, NAMES)
    return folder


def run(*arguments: object) -> Any:
    """What a command prints as JSON; raises what it raises."""
    done = CliRunner().invoke(app, [*map(str, arguments), "--json"])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def rebase(world: Path, out: Path, *more: object) -> Any:
    onto = world / "releases" / "r2"
    home = ("--home", out.parent / "home", "--unverified")
    return run("rebase", world / "east", "--onto", onto, "--out", out, *home, *more)


def merge(world: Path, out: Path, *more: object) -> Any:
    release = ("--release", world / "releases" / "r1", "--home", out.parent / "home")
    told = ("--head", "joined", "--out", out, *release, *more)
    return run("merge", world / "east", world / "west", *told)


# -------------------------------------------------------------- rebase


def test_a_build_goes_over_to_the_next_release_by_one_command(world: Path, tmp_path: Path) -> None:
    old = load(world / "east")
    before = sorted(path.read_bytes() for path in (world / "east").iterdir() if path.is_file())
    data = ("--data", world / "data", "--config", world / "bare.toml", "--recovery", "never")
    told = rebase(world, tmp_path / "model", *data)
    model = load(tmp_path / "model")
    assert torch.allclose(
        (model.vector - NEW.vector).values, (old.vector - OLD.vector).values, atol=1e-6
    )
    assert (model.lineage.method, model.lineage.steps) == ("rebase", 0)
    assert model.lineage.release.vector_digest == NEW.vector.digest
    assert [p.digest for p in model.lineage.parents] == [old.digest, NEW.vector.digest]
    assert model.class_names == NAMES
    assert [stage["name"] for stage in told["stages"]] == ["before", "rebased"]
    assert told["stages"][1]["aligned"]
    after = sorted(path.read_bytes() for path in (world / "east").iterdir() if path.is_file())
    assert after == before
    again = rebase(world, tmp_path / "again", *data)
    assert load(tmp_path / "again").vector.digest == model.vector.digest
    assert again["stages"][1]["loss"] == told["stages"][1]["loss"]


def test_a_rebase_is_reported_beside_the_build_and_a_fresh_one(world: Path, tmp_path: Path) -> None:
    data = ("--data", world / "data", "--test", world / "test", "--config", world / "bare.toml")
    told = rebase(world, tmp_path / "model", *data, "--compare-fresh", "--recovery", "always")
    assert [s["name"] for s in told["stages"]] == ["before", "rebased", "recovered", "fresh"]
    assert told["stages"][2]["steps"] == 1  # a twentieth of eight, and one at least
    report = json.loads((tmp_path / "model" / "evaluation.json").read_text())
    roles = [each["role"] for each in report["found"]]
    assert roles == ["sovereign", "consensus", "before the rebase", "built anew"]
    assert load(tmp_path / "model").lineage.evaluation["report"]["figures"]


def test_a_broken_gate_asks_for_recovery_and_then_refuses(world: Path, tmp_path: Path) -> None:
    (tmp_path / "gate.toml").write_text(f"{BARE}[gate]\nmin_accuracy = 101\n")
    data = ("--data", world / "data", "--test", world / "test", "--config", tmp_path / "gate.toml")
    with pytest.raises(GobelinError, match="not signed") as told:
        rebase(world, tmp_path / "model", *data)
    assert told.value.exit_code == 66
    assert not (tmp_path / "model").exists()
    assert (tmp_path / "model.refused" / "evaluation.json").exists()


def test_a_package_brings_its_own_gate(world: Path, tmp_path: Path) -> None:
    old = load(world / "east")
    strict = {**old.build, "gate": {**old.build["gate"], "min_accuracy": 101}}
    write_package(tmp_path / "strict", replace(old, build=strict, files={}), SigningKey.generate())
    with pytest.raises(GobelinError, match="nothing of it was measured"):
        run("rebase", tmp_path / "strict", "--onto", world / "releases" / "r2", "--out",
            tmp_path / "model", "--unverified", "--home", tmp_path)  # fmt: skip


def test_without_data_the_published_frame_aligns(world: Path) -> None:
    """A head-only build: its tokens are the release's, so the release's frame is its own."""
    head = LinearHead(16, 16, 4)
    head.linear.weight.data.copy_(torch.randn(4, 256, generator=generator_of(0, "head")))
    old = replace(built("east", 0), vector=OLD.vector, head=head)
    samples = squares(40, 5).read(np.arange(40))
    tokens = replace(old, vector=NEW.vector).tokens(samples)
    frame = Frame.between(tokens, old.tokens(samples))
    found = Rebaser(old, OLD.vector, NEW, published=frame).carry().model
    assert found.vector.digest == NEW.vector.digest
    assert found.head is not None
    assert torch.allclose(
        found.head.logits(tokens), head.logits(frame.apply(tokens)), atol=1e-4, rtol=1e-4
    )
    bare = Rebaser(old, OLD.vector, NEW).carry().model.head
    assert bare is not None
    assert torch.equal(bare.logits(tokens), head.logits(tokens))


def test_masks_are_chosen_by_held_out_loss(world: Path) -> None:
    old, given = load(world / "east"), Given(squares(120, 0))
    auto = Rebaser(old, OLD.vector, NEW, given, RebaseSettings(mask="auto")).carry().stages[-1]
    tried = auto.facts["tried"]
    assert set(tried) == {"none", "movement", "gradient"}
    assert auto.loss == min(tried.values())
    masked = Rebaser(old, OLD.vector, NEW, given, RebaseSettings(mask="movement")).carry().model
    moved = (masked.vector - NEW.vector).values
    against = ((old.vector - OLD.vector).values * (NEW.vector - OLD.vector).values) < 0
    assert against.any()
    assert not moved[against].any()


def test_adapters_stay_with_a_delta_that_stays_as_it_was(world: Path) -> None:
    files = {"adapter/adapter_config.json": b"{}", "README.md": b"# old"}
    old = replace(load(world / "east"), files=files)
    given = Given(squares(120, 0))
    whole = Rebaser(old, OLD.vector, NEW, given).carry().model
    assert set(whole.files) == {"adapter/adapter_config.json"}
    masked = Rebaser(old, OLD.vector, NEW, given, RebaseSettings(mask="movement")).carry().model
    assert not masked.files


def test_recovery_is_asked_for_below_the_floor_alone(world: Path) -> None:
    old, given = load(world / "east"), Given(squares(120, 0))
    work = Rebaser(old, OLD.vector, NEW, given)
    found = work.carry()
    before, now = found.stages
    assert before.held_out is not None
    assert not work.needs_recovery(
        replace(found, stages=(before, replace(now, held_out=before.held_out - 1)))
    )
    assert work.needs_recovery(
        replace(found, stages=(before, replace(now, held_out=before.held_out - 1.1)))
    )


def test_a_build_of_a_head_alone_recovers_by_its_head_alone(world: Path) -> None:
    old, given = load(world / "east"), Given(squares(120, 0))
    old = replace(old, vector=OLD.vector, build={**old.build, "method": "linear"})
    assert old.head is not None
    deaf = PooledHead(16, 4)  # knows nothing: whatever is fitted is better
    work = Rebaser(replace(old, head=deaf), OLD.vector, NEW, given)
    carried, recovered = work.recover(work.carry()).stages[1:]
    assert recovered.model.vector.digest == carried.model.vector.digest == NEW.vector.digest
    assert recovered.loss is not None
    assert carried.loss is not None
    assert recovered.loss < carried.loss
    assert (recovered.steps, recovered.facts["moves"]) == (0, "head")


def test_a_model_without_a_head_goes_over_too(world: Path) -> None:
    """Such as a world model: its delta is copied, and nothing has to be aligned."""
    old = replace(load(world / "east"), head=None, class_names=())
    given = Given(MemorySource(squares(20, 0).read(np.arange(20))))
    found = Rebaser(old, OLD.vector, NEW, given).carry()
    assert not found.stages[1].facts["aligned"]
    assert not Rebaser(old, OLD.vector, NEW, given).needs_recovery(found)
    assert found.model.vector.digest != NEW.vector.digest


def test_a_rebase_that_cannot_be_is_told_in_one_line(world: Path, tmp_path: Path) -> None:
    with pytest.raises(RebaseError, match="on that release already"):
        run("rebase", world / "east", "--onto", world / "releases" / "r1", "--out",
            tmp_path / "model", "--unverified", "--home", tmp_path)  # fmt: skip
    shutil.copytree(world / "releases" / "r2", tmp_path / "alone" / "r2")
    with pytest.raises(RebaseError, match="is not here") as told:
        run("rebase", world / "east", "--onto", tmp_path / "alone" / "r2", "--out",
            tmp_path / "model", "--unverified", "--home", tmp_path)  # fmt: skip
    assert told.value.exit_code == 68
    assert "--from" in told.value.remedy
    assert not (tmp_path / "model").exists()
    found = find_release(OLD.vector.digest, [world / "releases"])
    assert found.digest == OLD.vector.digest


# -------------------------------------------------------------- merge


@pytest.mark.parametrize("method", ["weights", "task-arithmetic", "ties", "dare"])
def test_builds_merge_by_one_command(world: Path, tmp_path: Path, method: str) -> None:
    told = merge(world, tmp_path / "model", "--method", method)
    model, parents = load(tmp_path / "model"), [load(world / name) for name in ("east", "west")]
    assert (told["method"], told["evaluation"]["merge"]["name"]) == ("merge", method)
    assert {p.digest for p in model.lineage.parents} == {parent.digest for parent in parents}
    assert {said.name for said in model.lineage.data} == {"east: data", "west: data"}
    assert model.class_names == NAMES
    samples = squares(8, 2).read(np.arange(8))
    assert model.predict(samples).shape == (8, 4)
    if method == "weights":
        mean = (parents[0].vector.values.double() + parents[1].vector.values.double()) / 2
        assert torch.allclose(model.vector.values.double(), mean, atol=1e-6)


def test_a_merge_does_not_depend_on_the_order_of_its_builds(world: Path) -> None:
    models = [load(world / name) for name in ("east", "west")]
    one = merge_models(models, OLD.vector, Ties(), region="r", weights=[1, 3], head=JOINED)
    other = merge_models(models[::-1], OLD.vector, Ties(), region="r", weights=[3, 1], head=JOINED)
    assert one.vector.digest == other.vector.digest
    assert one.lineage.digest == other.lineage.digest


def test_a_merge_is_reported_beside_its_builds(world: Path, tmp_path: Path) -> None:
    data = ("--data", world / "data", "--test", world / "test", "--config", world / "bare.toml")
    merge(world, tmp_path / "model", *data)
    report = json.loads((tmp_path / "model" / "evaluation.json").read_text())
    assert [f["role"] for f in report["found"]] == ["sovereign", "consensus", "east", "west"]


def test_a_merged_build_can_be_rebased(world: Path) -> None:
    models = [load(world / name) for name in ("east", "west")]
    merged = merge_models(models, OLD.vector, Weights(), region="both", head=JOINED)
    found = Rebaser(merged, OLD.vector, NEW, Given(squares(120, 0))).carry().model
    assert torch.allclose(
        (found.vector - NEW.vector).values, (merged.vector - OLD.vector).values, atol=1e-6
    )


def test_heads_of_other_classes_are_put_side_by_side() -> None:
    """By hand: `b`, which both know, has the mean of its rows; temperatures go into the rows."""
    one, other = LinearHead(1, 2, 2), LinearHead(1, 2, 2)
    one.linear.weight.data.copy_(torch.tensor([[1.0, 0], [2, 0]]))
    other.linear.weight.data.copy_(torch.tensor([[0.0, 4], [0, 8]]))
    other.linear.bias.data.copy_(torch.tensor([2.0, 6]))
    base = built("east", 0)
    models = [
        replace(base, head=one, class_names=("a", "b"), temperature=1.0),
        replace(base, head=other, class_names=("b", "c"), temperature=2.0),
    ]
    names, head = join_heads(models, [0.5, 0.5])
    assert names == ("a", "b", "c")
    assert isinstance(head, LinearHead)
    assert head.linear.weight.tolist() == [[1, 0], [1, 1], [0, 4]]
    assert head.linear.bias.tolist() == [0, 0.5, 3]


def test_builds_that_do_not_go_together_are_refused(world: Path, tmp_path: Path) -> None:
    east, west = (load(world / name) for name in ("east", "west"))
    moved = Rebaser(west, OLD.vector, NEW).carry().model
    with pytest.raises(MergeError, match="round 2") as told:
        merge_models([east, moved], OLD.vector, Weights(), region="r")
    assert told.value.exit_code == 69
    assert "sovereign rebase" in told.value.remedy
    with pytest.raises(MergeError, match="not the builds' own"):
        merge_models([east, west], NEW.vector, Weights(), region="r")
    with pytest.raises(MergeError, match="named twice"):
        merge_models([east, east], OLD.vector, Weights(), region="r")
    linear = replace(west, head=LinearHead(16, 16, 4))
    with pytest.raises(MergeError, match="do not join"):
        merge_models([east, linear], OLD.vector, Weights(), region="r", head=JOINED)
    kept = merge_models([east, linear], OLD.vector, Weights(), region="r", head=east)
    assert kept.head is east.head
    with pytest.raises(MergeError, match="nobody said which") as told:
        merge_models([east, west], OLD.vector, Weights(), region="r")
    assert "--head joined" in told.value.remedy
    assert "another scanner" in told.value.remedy
    licensed = replace(west, lineage=west.lineage.model_copy(update={"licence": "MIT"}))
    with pytest.raises(MergeError, match="several licences"):
        merge_models([east, licensed], OLD.vector, Weights(), region="r", head=east)
    with pytest.raises(MergeError, match="not enough"):
        run("merge", world / "east", "--release", world / "releases" / "r1", "--out",
            tmp_path / "model", "--home", tmp_path)  # fmt: skip
    assert not (tmp_path / "model").exists()
