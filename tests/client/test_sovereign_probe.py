"""The sovereign probe: a head that knows its release, and the commands around it."""

import json

import pytest
import torch
from typer.testing import CliRunner

from gobelin.client.evaluate_cli import app as evaluate_app
from gobelin.client.sovereign import build_head, load_head, predict, save_head
from gobelin.client.sovereign_cli import app as sovereign_app
from gobelin.shared.checkpoint import read_checkpoint, write_checkpoint
from gobelin.shared.data import MemorySource
from gobelin.shared.data.export import write_idx, write_image_folder
from gobelin.shared.errors import CheckpointError, DataError
from gobelin.shared.model import build_jepa
from gobelin.shared.recipe import load_recipe
from gobelin.shared.vector import ParameterVector

NAMES = ("high", "low")


def halves(count, seed=0):
    """Images (N, 1, 28, 28) that are brighter above or below, and which (N,)."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 2, (count,), generator=generator)
    images = torch.randint(0, 80, (count, 1, 28, 28), generator=generator)
    for image, label in zip(images, labels.tolist(), strict=True):
        image[:, 14 * label : 14 * label + 14] += 150
    return images.to(torch.uint8), labels


def checkpoint_at(folder, seed=0):
    recipe = load_recipe("toy")
    write_checkpoint(folder, recipe, ParameterVector.of(build_jepa(recipe, seed)), {"round": 1})
    return read_checkpoint(folder)


@pytest.fixture
def release(tmp_path):
    return checkpoint_at(tmp_path / "release")


@pytest.fixture
def head(release):
    return build_head(release, MemorySource(*halves(100), NAMES))


def test_a_head_reads_the_regions_classes_off_the_frozen_release(release, head):
    images, labels = halves(40, seed=1)
    chances = predict(head, release, images)
    assert (chances.argmax(1) == labels).double().mean() > 0.9
    assert torch.allclose(chances.sum(1), torch.ones(40))
    assert head.accuracy > 90
    assert (head.train_images, head.test_images) == (80, 20)
    assert head.class_names == NAMES


def test_a_saved_head_comes_back_with_its_lineage(tmp_path, release, head):
    save_head(tmp_path / "head", head)
    back = load_head(tmp_path / "head")
    assert torch.equal(back.linear.weight, head.linear.weight)
    assert back.facts() == head.facts()
    assert back.release_digest == release.vector.digest
    assert back.recipe_digest == release.recipe.digest


def test_a_head_refuses_another_release(tmp_path, head):
    other = checkpoint_at(tmp_path / "other", seed=1)
    with pytest.raises(CheckpointError, match="belongs to release"):
        predict(head, other, halves(4)[0])


def test_a_damaged_head_is_refused(tmp_path, head):
    folder = tmp_path / "head"
    save_head(folder, head)
    weights = folder / "head.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(CheckpointError, match="does not match"):
        load_head(folder)
    weights.unlink()
    with pytest.raises(CheckpointError, match="damaged"):
        load_head(folder)
    (folder / "manifest.json").write_text('{"format": "other"}')
    with pytest.raises(CheckpointError, match="format 'other'"):
        load_head(folder)
    (folder / "manifest.json").write_text("{")
    with pytest.raises(CheckpointError, match="damaged"):
        load_head(folder)
    with pytest.raises(CheckpointError, match="is no head"):
        load_head(tmp_path)


def test_unlabelled_too_few_and_one_class_of_images_are_refused(release):
    images, labels = halves(20)
    with pytest.raises(DataError, match="no labels"):
        build_head(release, MemorySource(images))
    with pytest.raises(DataError, match="one class"):
        build_head(release, MemorySource(images, torch.zeros(20)))
    with pytest.raises(DataError, match="leave none"):
        build_head(release, MemorySource(images[:2], labels[:2]))


def test_the_probe_command_writes_a_head(tmp_path, release):
    write_image_folder(tmp_path / "data", *halves(60), NAMES)
    paths = {"release": "release", "data": "data", "out": "head"}
    options = [part for key, name in paths.items() for part in (f"--{key}", str(tmp_path / name))]
    done = CliRunner().invoke(sovereign_app, ["probe", *options, "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["release_digest"] == release.vector.digest
    assert load_head(tmp_path / "head").class_names == NAMES


def test_nothing_is_written_when_the_data_are_bad(tmp_path, release):
    options = ["--release", str(tmp_path / "release"), "--data", str(tmp_path / "nowhere")]
    done = CliRunner().invoke(sovereign_app, ["probe", *options, "--out", str(tmp_path / "head")])
    assert isinstance(done.exception, DataError)
    assert not (tmp_path / "head").exists()


def test_the_evaluate_command_gives_a_table_or_json(tmp_path, release):
    write_idx(tmp_path / "train", *halves(60))
    write_idx(tmp_path / "test", *halves(30, seed=1))
    arguments = ["probe", str(tmp_path / "release"), "--no-attentive"]
    for option in ("train", "test"):
        arguments += ["--data" if option == "train" else "--test", str(tmp_path / option)]
    table = CliRunner().invoke(evaluate_app, arguments)
    assert table.exit_code == 0, table.output
    assert "raw samples" in table.stdout
    printed = json.loads(CliRunner().invoke(evaluate_app, [*arguments, "--json"]).stdout)
    assert printed["vector_digest"] == release.vector.digest
    assert printed["model"]["tokens"] > 90
