"""`gobelin serve`: what it answers is what the model says, whoever else asks at the time."""

from __future__ import annotations

import base64
import io
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from starlette.testclient import TestClient
from torch import Tensor
from typer.testing import CliRunner

from gobelin.client.serve_cli import app
from gobelin.client.serving.batcher import Batcher
from gobelin.client.serving.server import make_app
from gobelin.client.sovereign import SovereignModel, load
from gobelin.shared.data import Trajectories
from gobelin.shared.errors import CheckpointError, ConfigError, CrowdError, DataError, GobelinError
from gobelin.shared.evaluation.energy import energy
from gobelin.shared.token import read_token
from tests.client.sovereign_models import NAMES, package, robot, samples_of, small

TOKEN = "t" * 32


class Slow:
    """Doubles samples; holds the first pass until it is let go."""

    def __init__(self) -> None:
        self.begun, self.go, self.sizes = threading.Event(), threading.Event(), list[int]()

    def __call__(self, samples: Tensor) -> tuple[Tensor, ...]:
        self.sizes.append(len(samples))
        self.begun.set()
        assert self.go.wait(30)
        if bool((samples == 13).any()):
            raise DataError("thirteen")
        if bool((samples == 99).any()):
            raise RuntimeError("a secret")
        return samples * 2, samples + 1


def waiting(batcher: Batcher, count: int) -> None:
    """Return when so many samples wait."""
    give_up = threading.Event()
    for _ in range(3000):
        if batcher._waiting == count:
            return
        give_up.wait(0.01)
    raise AssertionError(f"{batcher._waiting} wait")


def test_who_asks_at_the_same_time_is_answered_by_one_pass() -> None:
    slow = Slow()
    batcher = Batcher(slow, most=8, waiting=20)
    with ThreadPoolExecutor(16) as pool:
        first = pool.submit(batcher.ask, torch.tensor([0.0]))
        assert slow.begun.wait(30)
        rest = [pool.submit(batcher.ask, torch.full((2,), float(i))) for i in range(1, 6)]
        waiting(batcher, 10)
        slow.go.set()
        assert torch.equal(first.result()[0], torch.tensor([0.0]))
        for i, found in enumerate(rest, 1):
            doubled, more = found.result()
            assert torch.equal(doubled, torch.full((2,), 2.0 * i))
            assert torch.equal(more, torch.full((2,), i + 1.0))
    assert slow.sizes == [1, 8, 2]
    assert (batcher.passes, batcher.samples) == (3, 11)


def test_a_crowd_is_told_to_come_again_and_large_requests_go_in_pieces() -> None:
    slow = Slow()
    batcher = Batcher(slow, most=4, waiting=10)
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(batcher.ask, torch.zeros(1))
        assert slow.begun.wait(30)
        large = pool.submit(batcher.ask, torch.arange(10.0))
        waiting(batcher, 10)
        with pytest.raises(CrowdError):
            batcher.ask(torch.zeros(1))
        slow.go.set()
        first.result()
        assert torch.equal(large.result()[0], 2 * torch.arange(10.0))
    assert slow.sizes == [1, 4, 4, 2]
    assert len(batcher.ask(torch.zeros(3))[0]) == 3


def test_a_failed_pass_is_told_and_the_next_is_answered() -> None:
    slow = Slow()
    slow.go.set()
    batcher = Batcher(slow)
    with pytest.raises(DataError, match="thirteen"):
        batcher.ask(torch.tensor([13.0]))
    with pytest.raises(GobelinError) as told:
        batcher.ask(torch.tensor([99.0]))
    assert "secret" not in str(told.value)
    assert torch.equal(batcher.ask(torch.tensor([1.0]))[0], torch.tensor([2.0]))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> SovereignModel:
    folder = tmp_path_factory.mktemp("images") / "model"
    package(folder, small("toy"), "linear")
    return load(folder)


def client_of(model: SovereignModel, max_bytes: int = 10**6, **how: Any) -> TestClient:
    made = make_app(model, max_bytes, {"127.0.0.1"}, **how)
    return TestClient(made, base_url="http://127.0.0.1", raise_server_exceptions=False)


def values(samples: Tensor) -> dict[str, Any]:
    return {"samples": [{"values": sample.tolist()} for sample in samples]}


def refused(answer: Any, status: int, code: str, what: str) -> None:
    assert answer.status_code == status, answer.text
    assert answer.json()["error"] == code
    assert what in answer.json()["what"] + answer.json()["remedy"]


def test_it_says_what_it_serves_and_how_it_is_asked(images: SovereignModel) -> None:
    client = client_of(images)
    health = client.get("/health").json()
    assert (health["model"], health["class_names"]) == (images.digest, list(NAMES))
    assert health["sample"] == {"kind": "ImageFormat", "image_size": 28, "channels": 1}
    document = client.get("/openapi.json").json()
    assert set(document["paths"]) == {"/health", "/embed", "/classify", "/surprise"}
    schema = document["paths"]["/embed"]["post"]["responses"]["422"]["content"]
    assert schema["application/json"]["schema"]["$ref"].endswith("/Refusal")


def test_embedding_and_classification_are_the_models_own(images: SovereignModel) -> None:
    client, samples = client_of(images), samples_of(images, 5)
    found = client.post("/embed", json=values(samples)).json()
    np.testing.assert_allclose(found["features"], images.encode(samples), atol=1e-5)
    told = client.post("/classify", json=values(samples)).json()
    chances = images.predict(samples)
    np.testing.assert_allclose(told["probabilities"], chances, atol=1e-5)
    assert told["classes"] == [NAMES[i] for i in chances.argmax(1).tolist()]
    buffer = io.BytesIO()
    Image.fromarray(samples[0, 0].numpy()).save(buffer, "PNG")
    png = {"samples": [{"png": base64.b64encode(buffer.getvalue()).decode()}]}
    assert client.post("/classify", json=png).json()["classes"] == told["classes"][:1]


def test_surprise_is_the_energy_of_candidates_beside_their_contexts(
    images: SovereignModel,
) -> None:
    samples = samples_of(images, 4)
    asked = {
        "contexts": values(samples[:2])["samples"],
        "candidates": values(samples[2:])["samples"],
    }
    found = client_of(images).post("/surprise", json=asked).json()["energy"]
    np.testing.assert_allclose(found, energy(images.encoder, samples[:2], samples[2:]), rtol=1e-4)
    refused(client_of(images).post("/surprise", json={}), 422, "config", "contexts")


def test_a_world_model_is_surprised_by_episodes(tmp_path: Path) -> None:
    package(tmp_path / "model", robot())
    model = load(tmp_path / "model")
    client, random = client_of(model), torch.Generator().manual_seed(1)
    seen, done = torch.randn(5, 5, generator=random), torch.randn(4, 2, generator=random)
    asked = {"observations": values(seen)["samples"], "actions": done.tolist()}
    found = client.post("/surprise", json=asked).json()
    mine = model.world_model().surprise(Trajectories(seen[None], done[None]))[0]
    np.testing.assert_allclose(found["energy"], mine, rtol=1e-4)
    assert np.shape(client.post("/embed", json=values(seen)).json()["latents"]) == (5, 16)
    assert client.post("/classify", json=values(seen)).status_code == 404
    short = asked | {"actions": done[:2].tolist()}
    refused(client.post("/surprise", json=short), 422, "data", "T + 1")


@pytest.mark.parametrize(
    ("recipe", "sample", "code", "what"),
    [
        ("text_tiny", {"text": "x" * 193}, "data", "193 bytes"),
        ("text_tiny", {"text": ""}, "data", "empty"),
        ("text_tiny", {"text": "\ud800"}, "data", "UTF-8"),
        ("text_tiny", {"values": [1]}, "data", "`text`"),
        ("series_tiny", {"values": [[1.0] * 5]}, "data", "96 x 6"),
        ("series_tiny", {"values": [[None] * 6]}, "data", "no value"),
        ("series_tiny", {"values": [[1.0] * 6] * 97}, "data", "97 x 6"),
        ("series_tiny", {"values": [["a"] * 6]}, "data", "numbers"),
        ("series_tiny", {"png": "AAAA"}, "data", "sees none"),
        ("video_tiny", {"values": [[[0]]]}, "data", "1 frames"),
        ("toy", {"values": [[1, 2]]}, "data", "1 x 28 x 28"),
        ("toy", {"png": "%%%"}, "data", "base64"),
        ("toy", {"text": "a"}, "data", "no texts"),
        ("toy", {}, "config", "give one of"),
        ("toy", {"value": []}, "config", "value"),
    ],
)
def test_bad_samples_are_typed_errors(
    tmp_path: Path, recipe: str, sample: dict[str, Any], code: str, what: str
) -> None:
    package(tmp_path / "model", small(recipe))
    asked = json.dumps({"samples": [sample]})
    kind = {"content-type": "application/json"}
    answer = client_of(load(tmp_path / "model")).post("/embed", content=asked, headers=kind)
    refused(answer, 422, code, what)


@pytest.mark.parametrize(
    ("recipe", "sample"),
    [
        ("text_tiny", {"text": "grüezi"}),
        ("series_tiny", {"values": [[1.0, None, 2, 3, 4, 5]] * 9}),
        ("video_tiny", {"values": np.zeros((8, 1, 32, 32), int).tolist()}),
    ],
)
def test_every_modality_is_embedded(tmp_path: Path, recipe: str, sample: dict[str, Any]) -> None:
    package(tmp_path / "model", small(recipe))
    answer = client_of(load(tmp_path / "model")).post("/embed", json={"samples": [sample] * 2})
    one, other = answer.json()["features"]
    assert len(one) == 24
    np.testing.assert_allclose(one, other, atol=1e-5)


def test_large_bodies_strange_hosts_and_who_bears_no_token_are_refused(
    images: SovereignModel,
) -> None:
    client = client_of(images, 100, token=TOKEN)
    for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": TOKEN}):
        refused(client.get("/health", headers=headers), 401, "config", "Bearer")
    headers = {"authorization": f"Bearer {TOKEN}"}
    assert client.get("/health", headers=headers).status_code == 200
    refused(client.post("/embed", content=b"x" * 101, headers=headers), 413, "data", "100 bytes")
    headers["host"] = "evil.example"
    refused(client.get("/health", headers=headers), 421, "config", "127.0.0.1")
    many = {"samples": [{"text": ""}] * 257}
    refused(client_of(images).post("/embed", json=many), 422, "config", "256")


def test_others_reach_it_with_a_token_alone(tmp_path: Path) -> None:
    run = ["serve", str(tmp_path / "model")][1:]
    told = CliRunner().invoke(app, [*run, "--host", "0.0.0.0"]).exception
    assert isinstance(told, ConfigError)
    assert "--token-file" in told.remedy
    assert isinstance(CliRunner().invoke(app, run).exception, CheckpointError)


def test_a_token_is_made_once_and_is_its_owners_alone(tmp_path: Path) -> None:
    file = tmp_path / "token"
    made = read_token(file)
    assert read_token(file) == made
    assert len(made) >= 32
    assert file.stat().st_mode & 0o777 == 0o600
    file.chmod(0o644)
    with pytest.raises(ConfigError, match="by others"):
        read_token(file)
    for weak in ("short", "a b" * 20, "ü" * 40):
        file.write_text(weak)
        with pytest.raises(ConfigError, match="no token"):
            read_token(file)
