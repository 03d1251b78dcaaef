"""`gobelin sovereign evaluate`: a package against its consensus, by command, and its gate."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from gobelin.client.sovereign.assessment import Region, assess, copies_of
from gobelin.client.sovereign.consensus import Consensus
from gobelin.client.sovereign.gate import GateError
from gobelin.client.sovereign.head import LinearHead
from gobelin.client.sovereign.lineage import Lineage, Origin
from gobelin.client.sovereign.package import SovereignModel, write_package
from gobelin.client.sovereign.page import page_of
from gobelin.client.sovereign.report import EvaluationSettings
from gobelin.client.sovereign_cli import app
from gobelin.shared.checkpoint import write_checkpoint
from gobelin.shared.data import MemorySource, Subset
from gobelin.shared.errors import ConfigError, LabelsError, SchemaMismatchError
from gobelin.shared.evaluation.embed import embed
from gobelin.shared.evaluation.probes import fit_head
from gobelin.shared.model import build_jepa, encoder_of
from gobelin.shared.signing import SigningKey
from gobelin.shared.vector import ParameterVector
from tests.client.sovereign_task import CLASSES, NAMES, RECIPE, VECTOR, squares, written

ORIGIN = Origin(federation="weavers", round=3, vector_digest=VECTOR.digest)
BARE = EvaluationSettings(resamples=100, shots=(), shifted_samples=0)
TABLES = "[evaluation]\nresamples = 100\nshots = []\nshifted_samples = 0\n"


def sovereign(vector: ParameterVector = VECTOR, temperature: float = 1.0) -> SovereignModel:
    """A linear head on a vector, fitted on the task's training samples."""
    known = embed(encoder_of(RECIPE, vector), squares(160, 0))
    head = LinearHead.of(fit_head(known.tokens, known.labels, CLASSES), known.pooled.shape[1])
    lineage = Lineage(region="north", release=ORIGIN, method="linear")
    return SovereignModel(
        RECIPE, vector, lineage, head=head, class_names=NAMES, temperature=temperature
    )


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A signed package, its release, a solo model and the region's data."""
    folder = tmp_path_factory.mktemp("region")
    write_package(folder / "model", sovereign(), SigningKey.generate())
    write_checkpoint(folder / "release", RECIPE, VECTOR, {"round": 3})
    other = ParameterVector.of(build_jepa(RECIPE, 5))
    write_checkpoint(folder / "solo", RECIPE, other, {})
    written(folder / "data", squares(160, 0))
    written(folder / "test", squares(120, 1))
    written(folder / "general", squares(80, 2))
    return folder


def command(world: Path, out: Path, *more: str) -> list[str]:
    """Of all that the region has."""
    arguments = ["evaluate", str(world / "model"), "--out", str(out), "--unverified"]
    for name in ("data", "test", "release", "general", "solo"):
        arguments += [f"--{name}", str(world / name)]
    return [*arguments, *more]


def test_a_package_is_compared_by_one_command(world: Path, tmp_path: Path) -> None:
    (tmp_path / "BUILD.toml").write_text(TABLES + "[gate]\nmin_accuracy = 30\n")
    options = ["--config", str(tmp_path / "BUILD.toml"), "--json"]
    done = CliRunner().invoke(app, command(world, tmp_path / "report", *options))
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told == json.loads((tmp_path / "report/evaluation.json").read_bytes())
    assert [each["role"] for each in told["found"]] == ["sovereign", "consensus", "solo"]
    # The head of this package is the very probe, and its model the consensus itself.
    assert told["gains"]["consensus"] == {"value": 0, "low": 0, "high": 0}
    assert told["general"][0]["lost"]["value"] == 0
    assert told["gate"][0]["holds"]
    assert str(world) not in (tmp_path / "report/evaluation.json").read_text()
    assert "<svg" in (tmp_path / "report/report.html").read_text()


def test_a_broken_floor_ends_with_its_own_code_and_keeps_the_report(
    world: Path, tmp_path: Path
) -> None:
    (tmp_path / "BUILD.toml").write_text(TABLES + "[gate]\nmin_gain_over_consensus = 1\n")
    options = ["--config", str(tmp_path / "BUILD.toml")]
    done = CliRunner().invoke(app, command(world, tmp_path / "report", *options))
    assert isinstance(done.exception, GateError)
    assert done.exception.exit_code == 66
    assert "min_gain_over_consensus = 1: the lower bound is 0, off by 1" in str(done.exception)
    assert "BROKEN" in done.stdout
    kept = json.loads((tmp_path / "report/evaluation.json").read_bytes())
    assert not kept["gate"][0]["holds"]


def test_a_misspelt_table_is_refused_before_any_work(world: Path, tmp_path: Path) -> None:
    (tmp_path / "BUILD.toml").write_text("[gate]\nmin_acuracy = 80\n")
    options = ["--config", str(tmp_path / "BUILD.toml")]
    done = CliRunner().invoke(app, command(world, tmp_path / "report", *options))
    assert isinstance(done.exception, ConfigError)
    assert "did you mean 'min_accuracy'" in str(done.exception)
    assert not (tmp_path / "report").exists()


def test_a_temperature_moves_calibration_and_not_accuracy() -> None:
    region = Region("squares", squares(160, 0), squares(120, 1))
    plain, cold = (assess(sovereign(temperature=t), None, region, BARE) for t in (1.0, 0.05))
    first, second = plain.found[0], cold.found[0]
    assert first.figures["accuracy"] == second.figures["accuracy"]
    assert first.calibration is not None
    assert second.calibration is not None
    assert second.calibration.overconfidence > first.calibration.overconfidence + 10


def test_another_schema_and_another_task_are_refused() -> None:
    region = Region("squares", squares(40, 0), squares(40, 1))
    bigger = RECIPE.model_copy(update={"trunk": RECIPE.trunk.model_copy(update={"depth": 2})})
    vector = ParameterVector.of(build_jepa(bigger, 0))
    with pytest.raises(SchemaMismatchError):
        assess(sovereign(), Consensus(bigger, vector, ORIGIN), region, BARE)
    other = MemorySource(squares(8, 1).read(np.arange(8)), torch.zeros(8), ("moon",))
    with pytest.raises(LabelsError, match="class 'moon'"):
        assess(sovereign(), None, Region("moons", squares(40, 0), other), BARE)
    odd = BARE.model_copy(update={"anomalous": ("moon",)})
    with pytest.raises(ConfigError, match="no class 'moon'"):
        assess(sovereign(), None, region, odd)


def test_classes_in_another_order_are_told_by_their_names() -> None:
    test = squares(120, 1)
    assert test.labels is not None
    mirrored = MemorySource(
        test.read(np.arange(120)), CLASSES - 1 - test.labels, tuple(reversed(NAMES))
    )
    train = squares(160, 0)
    plain, turned = (
        assess(sovereign(), None, Region("squares", train, t), BARE) for t in (test, mirrored)
    )
    assert turned.found[0].figures["accuracy"] == plain.found[0].figures["accuracy"]


def test_test_samples_that_were_trained_on_are_told() -> None:
    train = squares(60, 0)
    leaky = Subset(train, np.arange(10))
    assert copies_of(train, squares(40, 1)) == 0
    assert copies_of(train, leaky) == 10
    report = assess(sovereign(), None, Region("squares", train, leaky), BARE)
    assert "10 of the test samples" in report.notes[0]


def test_anomalies_are_found_without_a_head() -> None:
    normal = squares(160, 0)
    pictures = squares(60, 1).read(np.arange(60))
    pictures[:20] = 255 - pictures[:20]  # negatives, which nobody had
    labels = (torch.arange(60) < 20).long()
    test = MemorySource(pictures, labels, ("normal", "broken"))
    settings = BARE.model_copy(update={"anomalous": ("broken",)})
    report = assess(sovereign(), None, Region("pictures", normal, test), settings)
    assert (report.kind, report.headline) == ("anomaly", "auroc")
    assert report.found[0].figures["auroc"].low > 90
    assert report.found[0].calibration is None
    assert "AUROC" in page_of(report)
    # What is everywhere in the training samples is no anomaly.
    known = MemorySource(pictures)
    again = assess(sovereign(), None, Region("pictures", known, test), settings)
    assert again.found[0].figures["auroc"].value < report.found[0].figures["auroc"].value
