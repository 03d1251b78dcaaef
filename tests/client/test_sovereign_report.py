"""The report of a sovereign build says what is so, and says it to people and to programs."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gobelin.client.sovereign.gate import Floors, judge
from gobelin.client.sovereign.page import page_of, write_report
from gobelin.client.sovereign.report import EvaluationSettings, Report, evaluate_build
from gobelin.shared.data import Subset
from gobelin.shared.errors import ConfigError, DataError
from gobelin.shared.evaluation.benchmarks import Classification, Contender
from gobelin.shared.evaluation.intervals import Indices
from tests.client.sovereign_task import CLASSES, NAMES, fitted, model, squares, task

FAST = EvaluationSettings(
    resamples=100, shots=(1, 5), draws=2, severities=(5,), shifted_samples=100
)
BARE = FAST.model_copy(update={"shots": (), "shifted_samples": 0})


def rebuild(role: str, chosen: Indices) -> Contender:
    """A probe is the build here: on these samples."""
    whole = squares(160, 0)
    few = Subset(whole, chosen)
    labels = few.labels
    assert labels is not None
    assert len(labels) == 5 * CLASSES
    return fitted(model(role, 7 if role == "scratch" else 0), few)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def report() -> Report:
    contenders = {
        "sovereign": fitted(model("sovereign"), squares(160, 0)),
        "consensus": model("consensus"),
        "scratch": fitted(model("scratch", 7), squares(20, 0)),
    }
    general = [Classification("quarters", squares(80, 3), squares(80, 4), CLASSES)]
    return evaluate_build(
        task(),
        contenders,
        general=general,
        rebuild=rebuild,
        settings=FAST,
        facts={"release": "<deadbeef>"},
        notes=["A note & more."],
    )


def test_a_head_fitted_as_the_probe_is_gains_nothing_over_it(report: Report) -> None:
    assert report.gains["consensus"].value == pytest.approx(0)
    assert report.found[0].figures["accuracy"].value > 40
    assert report.gains["scratch"].value > 5  # a fifth of the labels, and another net


def test_an_untouched_model_has_lost_nothing(report: Report) -> None:
    lost = report.general[0].lost
    assert (lost.low, lost.value, lost.high) == (0, 0, 0)
    assert report.figures["points_lost_general"] == lost


def test_the_curve_has_frozen_models_and_the_build_repeated(report: Report) -> None:
    points = {(point.role, point.shots): point for point in report.curve}
    # A build needs two labels a class at least, and ends with the one that is reported.
    built = {(role, shots) for role in ("sovereign", "scratch") for shots in (5, 40)}
    assert set(points) == built | {("consensus", 1), ("consensus", 5)}
    assert points["sovereign", 40].accuracy == report.found[0].figures["accuracy"]
    assert points["consensus", 5].accuracy.value > points["consensus", 1].accuracy.value
    assert points["consensus", 5].deviation is not None
    # The build's first draw of labels is the probe's: the same few samples.
    assert points["sovereign", 5].draws == 1


def test_corruptions_cost_accuracy_and_calibration_is_measured(report: Report) -> None:
    mine = report.found[0]
    assert mine.shift is not None
    assert mine.shift.mean < mine.shift.clean
    assert mine.figures["accuracy_shifted"].value == pytest.approx(mine.shift.mean)
    assert mine.calibration is not None
    assert {"ece", "brier", "nll", "gain_over_scratch"} <= set(report.figures)


def test_a_surer_head_is_no_more_right_and_worse_calibrated() -> None:
    train = squares(160, 0)
    contenders = {
        "sovereign": fitted(model("sovereign"), train, scale=20),
        "consensus": fitted(model("consensus"), train),
    }
    found = evaluate_build(task(), contenders, settings=BARE)
    sure, sound = (each.calibration for each in found.found)
    assert found.gains["consensus"].value == 0
    assert sure is not None
    assert sound is not None
    assert sure.ece.low > sound.ece.value
    kept = judge(found.figures, Floors(max_ece=sound.ece.high))
    assert not kept[0].holds


def test_the_json_is_all_that_the_page_shows(report: Report, tmp_path: Path) -> None:
    judged = report.judged(judge(report.figures, Floors(min_accuracy=101, max_ece=100)))
    paths = write_report(tmp_path, judged)
    assert [path.name for path in paths] == ["evaluation.json", "report.html"]
    told = json.loads(paths[0].read_bytes())
    assert told["format"] == "gobelin.evaluation.v1"
    assert told["task"]["classes"] == list(NAMES)
    assert [each["holds"] for each in told["gate"]] == [False, True]
    page = paths[1].read_text()
    assert "Not signed: 1 of 2 floors is broken" in page
    accuracy = told["found"][0]["figures"]["accuracy"]
    assert f"{accuracy['value']:.1f} <small>{accuracy['low']:.1f}" in page
    for name in NAMES:
        assert name in page
    assert len(told["few_shot"]) == 6


def test_the_page_needs_nothing_from_elsewhere_and_escapes_what_it_is_told(report: Report) -> None:
    page = page_of(replace(report, name="<script>alert(1)</script>"))
    assert "<script" not in page
    assert "&lt;deadbeef&gt;" in page
    assert "A note &amp; more." in page
    addresses = set(re.findall(r'(?:src|href)="([^"#]+)"', page))
    assert all(each.startswith("data:") for each in addresses)
    assert page.count("<svg") >= 5  # gains, curve, shift, and two reliability diagrams
    ids = re.findall(r'\bid="([^"]+)"', page)
    used = set(re.findall(r'(?:url\(|href=")#([^")]+)', page))
    assert used
    assert {ids.count(each) for each in used} == {1}  # charts borrow nothing from each other
    assert page_of(report) == page_of(report)


def test_a_model_of_other_classes_is_refused() -> None:
    odd = Classification("squares", squares(40, 0), squares(40, 1), CLASSES + 1)
    contenders = {"sovereign": fitted(model("sovereign"), squares(40, 0))}
    with pytest.raises(DataError, match="4 classes apart, not 5"):
        evaluate_build(odd, contenders, settings=BARE)
    with pytest.raises(ConfigError, match="sovereign"):
        evaluate_build(task(), {"consensus": model("consensus")}, settings=BARE)
    with pytest.raises(ConfigError, match="nothing can be lost"):
        evaluate_build(task(), contenders, general=[task()], settings=BARE)


def test_few_labels_of_a_draw_are_a_class_each() -> None:
    chosen = task().few(5, 0)
    labels = squares(160, 0).labels
    assert labels is not None
    assert np.bincount(labels[chosen]).tolist() == [5] * CLASSES
    assert not np.array_equal(chosen, task().few(5, 1))
