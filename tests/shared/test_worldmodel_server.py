"""`gobelin worldmodel serve`: a real process on loopback, asked over HTTP."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from gobelin.shared.checkpoint import write_checkpoint
from gobelin.shared.errors import ConfigError, PortInUseError
from gobelin.shared.http_server import MAX_OPEN, Guard
from gobelin.shared.model import build_jepa
from gobelin.shared.recipe import load_recipe
from gobelin.shared.vector import ParameterVector
from gobelin.shared.worldmodel.cli import app
from gobelin.shared.worlds import TwoRoom

RUN = "from gobelin.shared.worldmodel.cli import app; app(standalone_mode=False)"
PICTURES = TwoRoom().render(np.float32([[0.2, 0.3], [0.3, 0.3], [0.4, 0.3]]))
QUICK = {"planner": "icem", "samples": 32, "iterations": 2, "horizon": 4}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served") / "world"
    recipe = load_recipe("two_room")
    write_checkpoint(folder, recipe, ParameterVector.of(build_jepa(recipe, seed=0)), {})
    return folder


@pytest.fixture(scope="module")
def server(checkpoint: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", RUN, "serve", str(checkpoint), "--max-mb", "0.2", "--json"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        yield process
        process.kill()


@pytest.fixture(scope="module")
def client(server: subprocess.Popen[str]) -> Iterator[httpx.Client]:
    assert server.stdout is not None
    assert select.select([server.stdout], [], [], 120)[0], "it never said where it listens"
    said = json.loads(server.stdout.readline())
    assert said["url"].startswith("http://127.0.0.1:")
    with httpx.Client(base_url=said["url"], timeout=120, trust_env=False) as client:
        yield client


def values(i: int) -> dict[str, object]:
    return {"values": PICTURES[i].tolist()}


def png(i: int) -> dict[str, object]:
    buffer = io.BytesIO()
    Image.fromarray(PICTURES[i, 0]).save(buffer, "PNG")
    return {"png": base64.b64encode(buffer.getvalue()).decode()}


def refused(answer: httpx.Response, status: int, code: str, what: str) -> None:
    assert answer.status_code == status, answer.text
    found = answer.json()
    assert found["error"] == code
    assert what in found["what"] + found["remedy"]
    assert "Traceback" not in answer.text


def test_it_says_what_it_serves_and_how_it_is_asked(client: httpx.Client) -> None:
    health = client.get("/health").json()
    assert health == {"status": "ok", "model": "world", "observation": [1, 32, 32], "actions": 2}
    document = client.get("/openapi.json").json()
    assert set(document["paths"]) == {"/health", "/plan", "/rollout", "/surprise"}
    refusal = document["paths"]["/plan"]["post"]["responses"]["422"]["content"]
    assert refusal["application/json"]["schema"]["$ref"].endswith("/Refusal")


def test_find_me_actions_that(client: httpx.Client) -> None:
    asked = {"start": values(0), "goal": png(2), "settings": QUICK}
    found = client.post("/plan", json=asked).json()
    assert np.shape(found["actions"]) == (4, 2)
    assert np.abs(found["actions"]).max() <= 0.1 + 1e-6  # the recipe's action_scale
    assert found == client.post("/plan", json=asked).json()


def test_what_happens_if(client: httpx.Client) -> None:
    asked = {"start": png(0), "goal": values(2), "actions": [[0.1, 0], [0.1, 0]], "latents": True}
    one = client.post("/rollout", json=asked).json()
    assert np.shape(one["latents"]) == (2, 16)
    assert np.shape(one["to_goal"]) == (2,)
    several = client.post("/rollout", json=asked | {"actions": [asked["actions"]] * 3}).json()
    assert np.shape(several["to_goal"]) == (3, 2)
    np.testing.assert_allclose(several["to_goal"][0], one["to_goal"], rtol=1e-4)


def test_how_plausible_is_this(client: httpx.Client) -> None:
    asked = {"observations": [png(0), values(1), png(2)], "actions": [[0.1, 0], [0.1, 0]]}
    found = client.post("/surprise", json=asked).json()
    assert len(found["energy"]) == 2
    assert found["peak"] == max(found["energy"]) == found["energy"][found["peak_step"]]
    refused(client.post("/surprise", json=asked | {"actions": [[0.1, 0]]}), 422, "data", "T + 1")


def test_bad_requests_are_typed_errors(client: httpx.Client) -> None:
    good = {"start": values(0), "goal": values(1), "settings": QUICK}

    def post(**changes: object) -> httpx.Response:
        return client.post("/plan", json=good | changes)

    refused(post(start={"values": [[1, 2]]}), 422, "data", "1 x 32 x 32")
    refused(post(start={"values": [[1], [2, 3]]}), 422, "data", "unequal length")
    refused(post(start={"values": [["a"]]}), 422, "data", "give numbers")
    refused(post(start={"values": (PICTURES[0] + 0.5).tolist()}), 422, "data", "whole numbers")
    refused(post(start={"png": "%%%"}), 422, "data", "base64")
    refused(post(start={"png": base64.b64encode(b"no").decode()}), 422, "data", "picture")
    refused(post(start={}), 422, "config", "either `values` or `png`")
    refused(post(start=1), 422, "config", "body.start")
    refused(post(setings={}), 422, "config", "setings")
    refused(post(settings={"horizon": 10**6}), 422, "config", "horizon")
    refused(post(settings={"horizon": 500, "samples": 10**6}), 422, "config", "samples ×")
    refused(post(settings=QUICK | {"low": [0], "high": [1]}), 422, "config", "low has 1 numbers")
    box = {"low": [0, 0], "high": [1, 1]}
    refused(post(settings=QUICK | {"keep_out": [box]}), 422, "config", "--readout")
    beyond = QUICK | {"low": [0.1, 0.1], "high": [0.2, 0.2], "spend_at_most": 0.01}
    refused(post(settings=beyond), 422, "plan", "keeps the constraints")
    nan = json.dumps({"start": values(0), "actions": [[float("nan"), 0]]})
    headers = {"content-type": "application/json"}
    refused(client.post("/rollout", content=nan, headers=headers), 422, "data", "not finite")
    refused(client.post("/plan", content="{", headers=headers), 422, "config", "JSON")
    deep = "[" * 100_000
    assert client.post("/plan", content=deep, headers=headers).json()["error"]


def test_unknown_paths_strange_hosts_and_large_bodies_are_refused(client: httpx.Client) -> None:
    refused(client.get("/nothing"), 404, "config", "Not Found")
    refused(client.get("/plan"), 405, "config", "Not Allowed")
    refused(client.get("/health", headers={"host": "evil.example"}), 421, "config", "127.0.0.1")
    refused(client.post("/plan", content=b"x" * 200_001), 413, "data", "200,000 bytes")

    def pieces() -> Iterator[bytes]:  # without a content-length
        yield from (b"x" * 50_000 for _ in range(5))

    refused(client.post("/plan", content=pieces()), 413, "data", "200,000 bytes")
    assert client.get("/health").status_code == 200


def test_a_port_in_use_and_a_host_that_is_none_are_refused(
    client: httpx.Client, checkpoint: Path
) -> None:
    given = ["serve", str(checkpoint), "--port", str(client.base_url.port)]
    assert isinstance(CliRunner().invoke(app, given).exception, PortInUseError)
    given = ["serve", str(checkpoint), "--host", "192.0.2.1"]  # of no machine (RFC 5737)
    assert isinstance(CliRunner().invoke(app, given).exception, ConfigError)


def through(guard: Guard) -> tuple[int, dict[str, object]]:
    """Status and body of what a guard answers to a small request."""
    sent: list[dict] = []

    async def receive() -> dict:
        return {"type": "http.request", "body": b"{}"}

    async def send(message: dict) -> None:
        sent.append(message)

    headers = [(b"host", b"127.0.0.1:1")]
    scope = {"type": "http", "method": "POST", "path": "/plan", "headers": headers}
    asyncio.run(guard(scope, receive, send))
    return sent[0]["status"], json.loads(sent[1]["body"])


def test_a_failure_of_its_own_is_told_without_a_traceback() -> None:
    async def fails(*_: object) -> None:
        raise RuntimeError("a secret")

    status, found = through(Guard(fails, 100, {"127.0.0.1"}))
    assert status == 500
    assert "secret" not in str(found)
    assert found["error"] == "gobelin"


def test_a_crowd_is_told_to_come_again() -> None:
    guard = Guard(lambda *_: None, 100, None)
    guard.open = MAX_OPEN
    assert through(guard)[0] == 503
    assert guard.open == MAX_OPEN


def test_it_ends_on_sigterm_without_a_word(
    client: httpx.Client, server: subprocess.Popen[str]
) -> None:
    client.get("/health")
    server.send_signal(signal.SIGTERM)
    assert server.wait(timeout=60) == 0
    assert server.stderr is not None
    assert server.stderr.read() == ""
