"""The worked example of docs/extending.md: it is run as a user's own package would be."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from gobelin.client.trainer import LocalSteps, LocalTrainer
from gobelin.shared import plugins
from gobelin.shared.data import BatchStream
from gobelin.shared.errors import ConfigError, DataError
from gobelin.shared.evaluation import evaluate_model
from gobelin.shared.modality import MODALITIES
from gobelin.shared.model import build_jepa
from gobelin.shared.recipe import load_recipe
from gobelin.shared.vector import ParameterVector

PAGE = Path(__file__).parents[2] / "docs" / "extending.md"
STEPS = 40


def block(language: str, number: int = 0) -> str:
    """A code block of the page."""
    found: list[str] = re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(), re.DOTALL)
    return found[number]


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The page's package, found by the entry point that the page writes."""
    module = ModuleType("spectra")
    monkeypatch.setitem(sys.modules, "spectra", module)
    exec(compile(block("python"), str(PAGE), "exec"), module.__dict__)
    named = re.search(r'\[project\.entry-points\."(.+)"\]\n(\w+) = "(.+)"', block("toml"))
    assert named is not None
    group, kind, value = named.groups()
    assert group == MODALITIES.group
    monkeypatch.setattr(plugins, "entry_points", lambda group: [EntryPoint(kind, value, group)])
    MODALITIES.__dict__.pop("_installed", None)
    yield
    MODALITIES.__dict__.pop("_installed", None)


def write_spectra(folder: Path, count: int = 128) -> Path:
    """Two materials whose absorption lines lie elsewhere; some bands are not measured."""
    random = np.random.default_rng(0)
    labels = np.arange(count) % 2
    centres = np.where(labels, 20, 44)[:, None] + random.normal(0, 2, (count, 1))
    spectra = np.exp(-(((np.arange(64) - centres) / 6) ** 2)) + random.normal(0, 0.1, (count, 64))
    spectra[::3, 56:] = np.nan
    folder.mkdir(exist_ok=True)
    np.save(folder / "spectra.npy", spectra.astype(np.float32))
    np.save(folder / "labels.npy", labels)
    return folder


def test_the_pages_modality_is_trained_and_probed(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    (tmp_path / "spectra.toml").write_text(block("toml", 1))
    recipe = load_recipe(str(tmp_path / "spectra.toml"))
    source = recipe.modality().open(write_spectra(tmp_path / "mine"))
    trainer = LocalTrainer(recipe, BatchStream(source, 32, seed=1).batch)
    base = ParameterVector.of(build_jepa(recipe, seed=0))
    losses: list[float] = []
    local = LocalSteps(0, STEPS, STEPS, seed=1, node_seed=2)
    trainer.train(base, local, lambda step: losses.append(step.loss))
    assert sum(losses[-8:]) < 0.8 * sum(losses[:8])
    found = evaluate_model(trainer.encoder, source, source)
    assert found.pooled is not None
    assert found.pooled > 90
    assert {name.split(".")[1] for name in base.tensors() if name.startswith("tok")} == {"nir"}


def test_bands_that_are_not_measured_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "spectra.toml").write_text(block("toml", 1))
    encoder = build_jepa(load_recipe(str(tmp_path / "spectra.toml")), seed=0).encoder().eval()
    batch = encoder.modality.made_up(4, torch.Generator().manual_seed(0))
    batch[:, 56:] = torch.nan
    tokens = encoder.tokens(encoder.prepare(batch))
    assert (tokens[:, 7] == 0).all()
    pooled = encoder.features(encoder.prepare(batch))
    torch.testing.assert_close(pooled, tokens[:, :7].mean(dim=1))


def test_the_pages_modality_tells_an_operator_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "spectra.toml").write_text(block("toml", 1).replace("bands", "band"))
    with pytest.raises(ConfigError, match="did you mean 'bands'"):
        load_recipe(str(tmp_path / "spectra.toml"))
    (tmp_path / "spectra.toml").write_text(block("toml", 1))
    modality = load_recipe(str(tmp_path / "spectra.toml")).modality()
    with pytest.raises(DataError, match="holds no spectra"):
        modality.open(tmp_path)
    with pytest.raises(DataError, match="a batch is"):
        modality.check(torch.zeros(2, 63, 1))
