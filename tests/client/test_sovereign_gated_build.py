"""A build is measured before it is signed, and what breaks a floor is not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from gobelin.client.sovereign.gate import GateError
from gobelin.client.sovereign.package import read_package
from gobelin.client.sovereign_cli import app
from gobelin.shared.checkpoint import write_checkpoint
from gobelin.shared.errors import ConfigError
from tests.client.sovereign_task import squares
from tests.client.test_sovereign_evaluate import RECIPE, VECTOR, written

TOML = """
release = "release"
data = "data"
test = "test"
out = "ours"
unverified = true
method = "full"
[tuning]
steps = 8
every = 4
batch_size = 16
lr = 2e-3
[evaluation]
general = ["general"]
resamples = 100
shots = [2]
shifted_samples = 20
severities = [3]
[compute]
device = "cpu"
threads = 1
[gate]
min_accuracy = 99.5
max_points_lost_general = 100
"""


@pytest.fixture
def region(tmp_path: Path) -> Path:
    torch.set_num_threads(1)
    write_checkpoint(tmp_path / "release", RECIPE, VECTOR, {"round": 3})
    written(tmp_path / "data", squares(48, 0))
    written(tmp_path / "test", squares(60, 1))
    written(tmp_path / "general", squares(40, 2))
    (tmp_path / "BUILD.toml").write_text(TOML)
    return tmp_path


def build(region: Path, *more: str) -> object:
    arguments = ["build", str(region / "BUILD.toml"), "--home", str(region / "home"), *more]
    return CliRunner().invoke(app, arguments)


def test_a_broken_floor_signs_nothing_and_a_lower_one_goes_on_from_there(region: Path) -> None:
    done = build(region)
    assert isinstance(done.exception, GateError)  # type: ignore[attr-defined]
    assert "min_accuracy = 99.5" in str(done.exception)  # type: ignore[attr-defined]
    assert not (region / "ours").exists()
    kept = json.loads((region / "ours.refused/evaluation.json").read_bytes())
    assert [each["holds"] for each in kept["gate"]] == [False, True]
    assert (region / "ours.refused/report.html").is_file()

    done = build(region, "--set", "gate.min_accuracy=5", "--json")
    assert done.exit_code == 0, done.output  # type: ignore[attr-defined]
    model = read_package(region / "ours")
    told = model.lineage.evaluation["report"]
    # The very model that was refused, not trained again: only the floor is another.
    before = kept["found"][0]["figures"]["accuracy"]
    assert told["figures"]["accuracy"] == before
    assert [each["holds"] for each in told["gate"]] == [True, True]
    assert not (region / "ours.refused").exists()
    assert {"evaluation.json", "report.html", "README.md"} <= set(model.files)
    report = json.loads((region / "ours/evaluation.json").read_bytes())
    assert [each["role"] for each in report["found"]] == ["sovereign", "consensus", "scratch"]
    assert {(p["role"], p["shots"]) for p in report["few_shot"]} == {
        *((role, 2) for role in ("sovereign", "scratch", "consensus")),
        ("sovereign", 12),
        ("scratch", 12),
    }
    assert "gain over consensus" in (region / "ours/README.md").read_text()
    assert str(region) not in (region / "ours/evaluation.json").read_text()


def test_what_cannot_be_measured_is_not_signed_where_a_floor_asks_for_it(region: Path) -> None:
    off = ["--set", "evaluation.report=false"]
    done = build(region, *off)
    assert isinstance(done.exception, GateError)  # type: ignore[attr-defined]
    assert "nothing of it was measured" in str(done.exception)  # type: ignore[attr-defined]
    assert not (region / "ours").exists()


def test_a_misspelt_floor_is_told_before_anything_is_read(region: Path) -> None:
    done = build(region, "--set", "gate.min_acuracy=5")
    assert isinstance(done.exception, ConfigError)  # type: ignore[attr-defined]
    assert "did you mean 'min_accuracy'" in str(done.exception)  # type: ignore[attr-defined]
