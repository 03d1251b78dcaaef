"""Exports: they say what the model says, in a process that knows nothing of Gobelin."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from gobelin.client.sovereign import load
from gobelin.client.sovereign.export import export_package
from gobelin.client.sovereign_cli import app
from gobelin.shared.data import Trajectories
from gobelin.shared.errors import CheckpointError, ExportError, SignatureError, StateError
from gobelin.shared.files import file_digest, json_bytes
from gobelin.shared.signing import verify
from tests.client.sovereign_models import NAMES, REGION, package, robot, samples_of, small

IMAGE = {"stem": "conv"}
CASES = {
    "image": ("toy", {}, "linear"),
    "image, conv": ("toy", IMAGE, "attentive"),
    "text": ("text_tiny", {}, "pooled"),
    "series": ("series_tiny", {"normalise": "window"}, "attentive"),
    "series, plain": ("series_tiny", {"wavelength": None}, "linear"),
    "video": ("video_tiny", {}, ""),
}


@pytest.mark.parametrize("case", CASES)
def test_the_loader_says_what_the_model_says(tmp_path: Path, case: str) -> None:
    name, table, head = CASES[case]
    model = package(tmp_path / "model", small(name, **table), head, temperature=1.5)
    told = export_package(model, tmp_path / "out", "hf")
    assert told["max_abs_diff"] <= 1e-5
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["hidden_size"] == model.recipe.trunk.dim
    assert ("id2label" in config) == bool(head)


def test_it_runs_in_a_process_without_gobelin(tmp_path: Path) -> None:
    model = package(tmp_path / "model", small("text_tiny"), "pooled")
    export_package(model, tmp_path / "out", "hf")
    samples = samples_of(model, 4)
    save_file({"samples": samples}, tmp_path / "in.safetensors")
    script = """
import sys
class Without:
    def find_spec(self, name, *_):
        if name.split(".")[0] in ("gobelin", "pydantic", "flwr", "numpy.testing"):
            raise ImportError(name)
sys.meta_path.insert(0, Without())
folder, given, out = sys.argv[1:]
sys.path.insert(0, folder)
from safetensors.torch import load_file, save_file
from modeling_gobelin import load
model = load(folder)
samples = load_file(given)["samples"]
save_file({"features": model.encode(samples), "chances": model.predict(samples)}, out)
print(",".join(model.class_names))
assert not any(name.startswith("gobelin") for name in sys.modules)
"""
    paths = [str(tmp_path / name) for name in ("out", "in.safetensors", "found.safetensors")]
    done = subprocess.run(
        [sys.executable, "-I", "-c", script, *paths], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == ",".join(NAMES)
    from safetensors.torch import load_file

    found = load_file(paths[2])
    assert torch.allclose(found["features"], model.encode(samples), atol=1e-5)
    assert torch.allclose(found["chances"], model.predict(samples), atol=1e-5)


def test_a_world_model_foresees_and_is_surprised_there(tmp_path: Path) -> None:
    model = package(tmp_path / "model", robot())
    assert export_package(model, tmp_path / "out", "hf")["max_abs_diff"] <= 1e-5
    loaded = _loaded(tmp_path / "out")
    random = torch.Generator().manual_seed(3)
    seen, done = torch.randn(2, 6, 5, generator=random), torch.randn(2, 5, 2, generator=random)
    mine = model.world_model().surprise(Trajectories(seen, done))
    assert torch.allclose(loaded.surprise(seen, done), mine, rtol=1e-3, atol=1e-5)


def _loaded(folder: Path) -> Any:
    from gobelin.client.sovereign.export import modeling_gobelin

    return modeling_gobelin.load(folder)


def test_card_licence_and_lineage_travel_along(tmp_path: Path) -> None:
    files = {"README.md": b"# Ours\n", "report.html": b"<p>", "adapter/adapter_config.json": b"{}"}
    model = package(tmp_path / "model", small("toy"), "linear", files=files)
    run = ["export", str(tmp_path / "model"), "--to", "hf", "--out", str(tmp_path / "out")]
    home = tmp_path / "region"
    told = json.loads(CliRunner().invoke(app, [*run, "--home", str(home), "--json"]).stdout)
    out = tmp_path / "out"
    for name in ("lineage.json", "model.safetensors", "head.safetensors", "report.html"):
        assert (out / name).read_bytes() == (tmp_path / "model" / name).read_bytes()
    assert (out / "adapter" / "adapter_config.json").exists()
    card = (out / "README.md").read_text()
    assert card.startswith("---\nlicense: apache-2.0\n")
    assert card.endswith("# Ours\n")
    assert "Apache License" in (out / "LICENSE").read_text()
    said = json.loads((out / "export.json").read_text())
    verify(said["key"], "sovereign export", json_bytes(said["statement"]), said["signature"])
    assert told["package"] == said["statement"]["package"] == model.digest
    for name, digest in said["statement"]["files"].items():
        assert file_digest(out / name) == digest
    assert {path.name for path in out.iterdir()} >= {"modeling_gobelin.py", "config.json"}
    assert not (out / "__pycache__").exists()


def test_what_computes_something_else_is_refused_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = package(tmp_path / "model", small("toy"), "linear")
    before = (tmp_path / "model" / "lineage.json").read_bytes()
    wrong = "gobelin.client.sovereign.export.hugging_face._load_module"
    with monkeypatch.context() as patch:
        from gobelin.client.sovereign.export import modeling_gobelin

        class Rough:
            @staticmethod
            def load(folder: Path) -> Any:
                loaded = modeling_gobelin.load(folder)
                loaded.weights["trunk.norm.bias"] += 1e-3
                return loaded

        patch.setattr(wrong, lambda _: Rough)
        with pytest.raises(ExportError, match="differs from the model by") as told:
            export_package(model, tmp_path / "out", "hf")
    assert told.value.exit_code == 64
    assert {path.name for path in tmp_path.iterdir()} == {"model"}
    assert (tmp_path / "model" / "lineage.json").read_bytes() == before


def test_bad_packages_and_full_places_are_refused(tmp_path: Path) -> None:
    package(tmp_path / "model", small("toy"))
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "thesis.tex").write_text("years of work")

    def run(*more: str, out: Path = tmp_path / "out") -> BaseException | None:
        asked = ["export", str(tmp_path / "model"), "--to", "hf", "--out", str(out), *more]
        return CliRunner().invoke(app, asked).exception

    assert isinstance(run(out=taken), StateError)
    assert isinstance(run("--signed-by", "0" * 64), SignatureError)
    assert run("--signed-by", REGION.public) is None
    assert run() is None  # over an export of before
    (tmp_path / "model" / "config.json").write_text("{}")
    assert isinstance(run(), CheckpointError)
    assert (tmp_path / "out" / "export.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("case", [*CASES, "world model"])
def test_onnx_says_what_the_model_says_for_any_batch(tmp_path: Path, case: str) -> None:
    pytest.importorskip("onnxscript")
    from gobelin.client.sovereign.export.onnx_graph import open_session, run_session

    if case == "world model":
        package(tmp_path / "model", robot())
    else:
        name, table, head = CASES[case]
        package(tmp_path / "model", small(name, **table), head, temperature=1.5)
    run = ["export", str(tmp_path / "model"), "--to", "onnx", "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, [*run, "--json"])
    assert done.exit_code == 0, done.exception
    told = json.loads(done.stdout)
    assert told["max_abs_diff"] <= 1e-4
    model = load(tmp_path / "model")
    if case == "world model":
        assert set(told["graphs"]) == {"model", "predictor"}
        return
    session = open_session(tmp_path / "out" / "model.onnx")
    for batch in (1, 5):
        samples = samples_of(model, batch, seed=9)
        features, *chances = run_session(session, (samples,))
        assert torch.allclose(features, model.encode(samples), atol=1e-4)
        if chances:
            assert torch.allclose(chances[0], model.predict(samples), atol=1e-4)


@pytest.mark.slow
def test_a_graph_that_differs_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxscript")
    model = package(tmp_path / "model", small("toy"))
    monkeypatch.setattr("gobelin.client.sovereign.export.onnx_graph.MOST", 0.0)
    with pytest.raises(ExportError, match="differs from the model"):
        export_package(model, tmp_path / "out", "onnx")
    assert not (tmp_path / "out").exists()


def test_onnxruntime_is_loaded_behind_its_opt_out_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It reads it once, as it is loaded, and calls its makers from then on without it."""
    from gobelin.client.sovereign.export.onnx_graph import OPT_OUT, runtime

    (tmp_path / "onnxruntime.py").write_text(f"import os\nseen = os.environ.get({OPT_OUT!r})\n")
    monkeypatch.delenv(OPT_OUT, raising=False)
    monkeypatch.delitem(sys.modules, "onnxruntime", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    assert runtime().seen == "1"
    monkeypatch.delitem(sys.modules, "onnxruntime")
    root = Path(__file__).parents[2]
    files = [path for room in ("client", "shared", "bench") for path in (root / room).rglob("*.py")]
    loads = [path.name for path in files if "import onnxruntime" in path.read_text()]
    assert loads == ["onnx_graph.py"]
