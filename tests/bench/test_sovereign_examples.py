"""Every worked example of a sovereign build runs by its one command, on the real data if there."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest

from bench.worked_examples import found_by, worked_examples_table
from gobelin.client.sovereign import load, read_package

DATA = {
    "clothing": Path(".cache/fashion-mnist"),
    "language": Path(".cache/udhr"),
    "sensors": Path(".cache/watch"),
    "world": Path(),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", DATA)
def test_an_example_builds_reports_and_signs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if not DATA[name].is_dir():
        pytest.skip(f"there is no {DATA[name]}: the example says how to get it")
    module = importlib.import_module(f"examples.sovereign_{name}")
    monkeypatch.setattr("sys.argv", ["example", "--fast", "--out", str(tmp_path)])
    about = str(module.__doc__).split("\n")[0]
    module.run_example(f"sovereign_{name}", about, module.run, module.COLUMNS)
    printed = capsys.readouterr().out
    rows = json.loads((tmp_path / "results.json").read_text())["rows"][0]
    assert set(module.METHODS) <= set(rows)
    assert all("over scratch" in rows[method] for method in module.METHODS)
    assert (tmp_path / "table.md").read_text().split("\n")[0] in printed
    model = load(tmp_path / "model")
    assert {"evaluation.json", "report.html", "README.md"} <= set(model.files)
    assert not model.lineage.release.verified  # and it says so
    told = json.loads((tmp_path / "model/evaluation.json").read_text())
    headline = told["task"]["headline"]
    kept = told["found"][0]["figures"][headline]["value"]
    assert kept == pytest.approx(rows[module.KEPT][headline])  # the table and the report agree
    assert read_package(tmp_path / "model").signed_by == model.signed_by


def test_an_example_without_its_data_says_how_to_get_them(tmp_path: Path) -> None:
    from examples.sovereign import require_data
    from gobelin.shared.errors import DatasetError

    with pytest.raises(DatasetError, match="gobelin data prepare watch"):
        require_data(tmp_path / "nowhere", "gobelin data prepare watch --out .cache/watch")


def test_a_table_has_mean_and_spread_over_seeds() -> None:
    from examples.sovereign import table_of

    found = [{"a": {"accuracy": 80.0, "over x": 2.0}}, {"a": {"accuracy": 82.0, "over x": 4.0}}]
    table = table_of(found, ["accuracy", "over x", "points lost"])
    assert table.split("\n")[2] == "| a | 81.0 ± 1.4 | +3.0 ± 1.4 | – |"
    assert table_of(found[:1], ["accuracy"]).endswith("| a | 80.0 |")


def test_what_examples_found_is_gathered_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs" / "sovereign_language"
    folder.mkdir(parents=True)
    method, rival = {"accuracy": 80.0, "over solo": 2.0}, {"accuracy": 78.0}
    rows = [{"linear head": method, "solo model + probe": rival} for _ in range(2)]
    (folder / "results.json").write_text(json.dumps({"seeds": [0, 1], "rows": rows}))
    assert found_by("language", None) == found_by("language", [0, 1])
    values = {"machine": "a machine", "examples": {"language": found_by("language", None)}}
    table = worked_examples_table(values)
    assert "### Language, seeds [0, 1]" in table
    assert "| linear head | 80.0 ± 0.0 | – | – | +2.0 ± 0.0 | – |" in table
    assert table.index("solo model + probe") < table.index("linear head")


def test_an_example_of_other_seeds_is_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "runs" / "sovereign_world" / "results.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({"seeds": [0], "rows": [{}]}))
    asked: list[list[str]] = []

    def run(command: list[str], check: bool) -> None:
        asked.append(command)
        file.write_text(json.dumps({"seeds": [4], "rows": [{}]}))

    monkeypatch.setattr("subprocess.run", run)
    assert found_by("world", [4])["seeds"] == [4]
    assert asked[0][-2:] == ["--seeds", "4"]
    assert found_by("world", None)["seeds"] == [4]
    assert len(asked) == 1
