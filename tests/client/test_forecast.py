"""A round foretold: from steps that were trained here, and a link that was measured or stated."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from gobelin.client.cli import app
from gobelin.client.forecast import Rate, forecast, traffic_of
from gobelin.client.plan import schema_of
from gobelin.client.rehearsal import Rehearsal, data_settings, rehearse
from gobelin.client.terms import Terms
from gobelin.shared.codec import CODECS, most_bytes
from gobelin.shared.data.export import write_idx
from gobelin.shared.errors import ConfigError, DataError
from gobelin.shared.recipe import load_recipe
from gobelin.shared.settings import to_toml

TERMS = Terms(load_recipe("toy"), "a test", rounds=3, local_steps=10, deadline_s=100.0)
SCHEMA = schema_of(TERMS.recipe)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.integers(0, 256, (40, 1, 28, 28), dtype=np.uint8))
    folder = tmp_path_factory.mktemp("data")
    write_idx(folder, images, torch.zeros(40, dtype=torch.int64))
    return folder


@pytest.fixture(scope="module")
def rehearsal(data: Path) -> Rehearsal:
    return rehearse(data_settings(data), TERMS.recipe, "int8", 60.0)


def test_a_rehearsal_measures_the_recipe_on_the_data(rehearsal: Rehearsal) -> None:
    assert (rehearsal.samples, rehearsal.batch_size) == (40, TERMS.recipe.inner.batch_size)
    assert rehearsal.parameters == SCHEMA.size
    assert rehearsal.warm
    assert rehearsal.payload_bytes <= most_bytes("int8", SCHEMA)
    assert rehearsal.step_s > 0
    assert rehearsal.tokens > 1


def test_data_that_cannot_be_trained_on_end_a_rehearsal(tmp_path: Path) -> None:
    with pytest.raises(DataError):
        rehearse(data_settings(tmp_path), TERMS.recipe, "fp32", 60.0)


def test_a_round_is_its_steps_and_its_bytes_at_the_rate(rehearsal: Rehearsal) -> None:
    found = forecast(TERMS, SCHEMA, "", "int4", rehearsal, Rate(1000.0, "stated"))
    assert found.train_s == pytest.approx(10 * rehearsal.step_s)
    assert found.up_s == pytest.approx(most_bytes("int4", SCHEMA) / 1000)
    assert found.down_s == pytest.approx(4 * SCHEMA.size / 1000)
    assert found.samples == 10 * rehearsal.batch_size
    parts = (found.train_s, found.encode_s, found.up_s, found.down_s)
    assert found.total_s == pytest.approx(sum(part or 0 for part in parts))


def test_what_is_not_known_is_not_made_up() -> None:
    found = forecast(TERMS, SCHEMA, "", "fp32", None, None)
    assert (found.train_s, found.up_s, found.memory_mb, found.total_s) == (None, None, None, None)
    assert any("not measured" in note for note in found.notes)
    assert any("not known" in note for note in found.notes)


def test_traffic_is_by_the_terms() -> None:
    plain = traffic_of(TERMS, SCHEMA, "")
    assert list(plain.up) == list(CODECS)
    assert (plain.down, plain.moments) == (4 * SCHEMA.size, 0)
    lossy = dataclasses.replace(TERMS, broadcast="int8", cross_node=True)
    told = traffic_of(lossy, SCHEMA, "")
    assert told.down == most_bytes("int8", SCHEMA)
    assert told.base == 4 * SCHEMA.size
    assert told.moments > 0


def test_terms_of_an_answer_are_those_of_the_plan_they_would_make() -> None:
    told = json.dumps({"local_steps": 7, "codec": "int4", "deadline_s": 60.0, "grace": None})
    terms = Terms.of_answer(to_toml(TERMS.recipe).encode(), told)
    assert (terms.local_steps, terms.codec, terms.recipe) == (7, "int4", TERMS.recipe)
    again = Terms.of_plan(terms.plan())
    assert dataclasses.replace(again, source="") == dataclasses.replace(terms, source="")


@pytest.mark.parametrize("told", ["", "[]", '{"local_steps": "many"}', '{"rounds": -1}', "{"])
def test_terms_that_are_none_are_refused(told: str) -> None:
    with pytest.raises(ConfigError, match="terms are none"):
        Terms.of_answer(to_toml(TERMS.recipe).encode(), told)


def test_the_command_predicts_a_recipe_on_data(data: Path, tmp_path: Path) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text('codecs = ["int4"]\n')
    options = ["--recipe", "toy", "--data", str(data), "--mbit", "8", "--policy", str(policy)]
    done = CliRunner().invoke(app, ["plan", *options, "--json"], catch_exceptions=False)
    told = json.loads(done.stdout)
    assert told["samples_here"] == 40
    assert told["up_s"] == pytest.approx(told["traffic"]["up"]["fp32"] / 1e6)
    verdicts = {row["rule"]: row["verdict"] for row in told["policy"]}
    assert verdicts["codecs"] == "narrowed"


def test_a_round_of_nobodys_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["plan", "--data", str(tmp_path)])
    assert isinstance(done.exception, ConfigError)
