"""Every question to a checkpoint is one command: a table, JSON and a plot, or one clear error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import Result
from typer.testing import CliRunner

from gobelin.client.evaluate_cli import app
from gobelin.client.judged import CollapsedError
from gobelin.shared.checkpoint import write_checkpoint
from gobelin.shared.data.export import write_idx
from gobelin.shared.errors import ConfigError, DataError
from gobelin.shared.model import build_jepa
from gobelin.shared.recipe import load_recipe
from gobelin.shared.vector import ParameterVector

PNG = b"\x89PNG\r\n"


def halves(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images (N, 1, 28, 28) that are brighter above or below, and which (N,)."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 2, (count,), generator=generator)
    images = torch.randint(0, 80, (count, 1, 28, 28), generator=generator)
    for image, label in zip(images, labels.tolist(), strict=True):
        image[:, 14 * label : 14 * label + 14] += 120
    return images.to(torch.uint8), labels


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A release, labelled data to fit on and to test on."""
    recipe = load_recipe("toy")
    vector = ParameterVector.of(build_jepa(recipe, seed=0))
    write_checkpoint(tmp_path / "release", recipe, vector, {"round": 1})
    flat = ParameterVector(vector.schema, 1e-30 * vector.values)
    write_checkpoint(tmp_path / "collapsed", recipe, flat, {"round": 2})
    write_idx(tmp_path / "train", *halves(80, seed=0))
    write_idx(tmp_path / "test", *halves(40, seed=1))
    return tmp_path


def run(folder: Path, command: str, *options: str, model: str = "release") -> Result:
    data = ["--data", str(folder / "train")]
    if command not in ("health", "planning"):
        data += ["--test", str(folder / "test")]
    return CliRunner().invoke(app, [command, str(folder / model), *data, *options])


def said(folder: Path, command: str, *options: str) -> dict[str, Any]:
    done = run(folder, command, *options, "--json")
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_probes_of_model_and_raw_samples_stand_side_by_side(folder: Path) -> None:
    plot = folder / "probes.png"
    found = said(folder, "probe", "--plot", str(plot))
    assert found["model"]["attentive"] > 90
    assert found["raw"]["attentive"] is None
    assert plot.read_bytes().startswith(PNG)
    table = run(folder, "probe", "--no-attentive")
    assert "raw samples" in table.stdout
    assert "attn." not in table.stdout


def test_few_shots_are_told_with_their_deviation(folder: Path) -> None:
    options = ("--shots", "3", "--draws", "2", "--probes", "linear", "--probes", "knn")
    found = said(folder, "few-shot", *options, "--plot", str(folder / "few.svg"))
    assert set(found["model"]) == set(found["raw"]) == {"linear", "knn"}
    (point,) = found["model"]["linear"]
    assert (point["shots"], point["labels"]) == (3, 6)
    assert "linear" in (folder / "few.svg").read_text()


def test_a_curve_has_a_point_for_every_number_of_labels(folder: Path) -> None:
    found = said(folder, "curve", "--shots", "8,1", "--draws", "2")
    assert [point["shots"] for point in found["model"]["linear"]] == [1, 8]
    table = run(folder, "curve", "--shots", "1", "--draws", "1")
    assert "labels a class" in table.stdout


def test_shift_is_told_by_corruption_and_severity_and_on_the_mean(folder: Path) -> None:
    options = ("--corruption", "contrast", "--corruption", "translation")
    found = said(folder, "shift", *options, "--severities", "1,5", "--plot", str(folder / "s.png"))
    assert set(found["model"]["corrupted"]) == {"contrast", "translation"}
    raw = found["raw"]
    assert raw["clean"] == 100
    every = [accuracy for by in raw["corrupted"].values() for accuracy in by.values()]
    assert len(every) == 4
    assert raw["kept"] == raw["mean"] == pytest.approx(sum(every) / 4)
    assert found["model"]["samples"] == 40
    assert (folder / "s.png").read_bytes().startswith(PNG)


def test_health_tells_all_figures_and_a_turn_of_nothing_against_itself(folder: Path) -> None:
    plot = folder / "health.png"
    found = said(folder, "health", "--base", str(folder / "release"), "--plot", str(plot))
    assert found["rotation_degrees"] == pytest.approx(0, abs=1e-3)
    assert found["lidar"] >= 1
    assert found["straightness"] is None  # single images have no path
    assert found["collapse_floor"] < found["collapse"]
    assert found["alarm"] is None
    assert plot.read_bytes().startswith(PNG)


def test_a_collapsed_model_is_told_and_is_an_error(folder: Path) -> None:
    done = run(folder, "health", "--json", model="collapsed")
    assert isinstance(done.exception, CollapsedError)
    assert done.exception.exit_code == 35
    assert json.loads(done.stdout)["alarm"]["kind"] == "point"


@pytest.mark.parametrize(
    ("command", "options", "says"),
    [
        ("shift", ("--corruption", "fog"), "no corruption 'fog'"),
        ("shift", ("--severities", "6"), "severities"),
        ("shift", ("--severities", "hard"), "'hard' are no whole numbers"),
        ("curve", ("--shots", "0,1"), "0 labels a class"),
        ("probe", ("--plot", "plot.jpg"), "no .jpg"),
        ("probe", ("--plot", "nowhere/plot.png"), "cannot be written"),
        ("planning", ("--world", "two-room"), "no world model"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(
    folder: Path, command: str, options: tuple[str, ...], says: str
) -> None:
    if command == "planning":
        done = CliRunner().invoke(app, [command, str(folder / "release"), *options])
    else:
        done = run(folder, command, *options)
    assert isinstance(done.exception, ConfigError), done.output
    assert says in str(done.exception)
    assert "\n" not in str(done.exception)


def test_data_without_labels_are_refused_but_for_health(folder: Path) -> None:
    write_idx(folder / "bare", halves(8, seed=2)[0])
    options = [str(folder / "release"), "--data", str(folder / "bare")]
    done = CliRunner().invoke(app, ["curve", *options, "--test", str(folder / "test")])
    assert isinstance(done.exception, DataError)
    assert CliRunner().invoke(app, ["health", *options]).exit_code == 0


def test_planning_is_told_with_its_cost_and_its_interval(tmp_path: Path) -> None:
    recipe = load_recipe("two_room")
    vector = ParameterVector.of(build_jepa(recipe, seed=0))
    write_checkpoint(tmp_path / "world", recipe, vector, {"round": 1})
    options = ["--world", "two-room", "--episodes", "3", "--budget", "12", "--horizon", "2"]
    plot = tmp_path / "plan.svg"
    command = ["planning", str(tmp_path / "world"), *options, "--plot", str(plot), "--json"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    for policy in ("model", "random", "straight"):
        one = found[policy]
        assert one["success_low"] <= one["success"] <= one["success_high"]
        assert one["steps_with_failures"] <= 12
    assert "straight" in plot.read_text()
