"""The image and the compose file: what they run exists, and as little as possible may go wrong."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from gobelin.client import cli as node
from gobelin.server import cli as aggregator
from tests.federation.test_loopback import private_images

yaml = pytest.importorskip("yaml")

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "containers"
DOCKERFILE = (FOLDER / "Dockerfile").read_text()
APPS = {"aggregator": aggregator.app, "node": node.app}
KEYS = {
    *("image", "build", "read_only", "tmpfs", "cap_drop", "security_opt", "restart", "entrypoint"),
    *("healthcheck", "environment", "command", "volumes", "stop_grace_period", "depends_on"),
}


def compose() -> dict[str, Any]:
    return dict(yaml.safe_load((FOLDER / "compose.yaml").read_text()))


def script(service: dict[str, Any]) -> str:
    """What a service runs, as a shell would."""
    words = service["command"]
    if service.get("entrypoint") is None:
        return shlex.join(["gobelin", *words])
    assert service["entrypoint"] == ["sh", "-euc"]
    (text,) = words
    return re.sub(r"\$\{(\w+):-(\w+)\}", r"\2", text.replace("$$", "$"))


SERVICES: dict[str, dict[str, Any]] = compose()["services"]


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_runs_commands_and_options_there_are(name: str) -> None:
    text = script(SERVICES[name])
    subprocess.run(["sh", "-n"], input=text, text=True, check=True)
    joined = text.replace("\\\n", " ")
    commands = re.findall(r"gobelin (aggregator|node) (\w+)([^|>\n]*)", joined)
    assert commands
    for group, command, options in commands:
        app: typer.Typer = APPS[group]
        done = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200"})
        assert done.exit_code == 0
        for option in re.findall(r"--[\w-]+", options):
            assert option in done.output, f"{command} has no {option}"


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_confined_and_names_what_there_is(name: str) -> None:
    service, whole = SERVICES[name], compose()
    assert service.keys() <= KEYS
    assert service["restart"] in {"no", "on-failure"}  # who has ended well is not started again
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    for volume in service["volumes"]:
        source, target, *mode = volume.replace(":?", "?").split(":")
        assert source.startswith("${DATA_") == (target == "/data")
        assert source.startswith("$") or source in whole["volumes"]
        assert target != "/data" or mode == ["ro"]
    for other, of in service.get("depends_on", {}).items():
        waits = {"service_healthy": "aggregator", "service_completed_successfully": other}
        assert other in SERVICES
        assert waits[of["condition"]] == other


def test_no_node_sees_another_ones_invite_or_home() -> None:
    nodes = {name: of for name, of in SERVICES.items() if name.startswith("node-")}
    seen = [volume.split(":")[0] for of in nodes.values() for volume in of["volumes"]]
    assert len(nodes) == 3
    assert len(seen) == len(set(seen))
    assert "aggregator" not in seen


def test_the_image_is_built_of_pinned_parts_and_runs_as_nobody_special() -> None:
    lines = DOCKERFILE.splitlines()
    steps = [line for line in lines if re.match(r"[A-Z]+ ", line)]
    assert [step for step in steps if step.startswith("FROM")] == [
        "FROM python:${PYTHON} AS build",
        "FROM python:${PYTHON}",
    ]
    assert "ARG PYTHON=3.11-slim-bookworm" in steps
    assert not [step for step in steps if step.startswith("ADD ") or ":latest" in step]
    last = len(steps) - 1 - [step.split()[0] for step in reversed(steps)].index("FROM")
    final = [step.split()[0] for step in steps[last:]]
    assert final.index("USER") > final.index("COPY")
    assert "USER 10001:10001" in steps
    assert {"HEALTHCHECK", "STOPSIGNAL", "ENTRYPOINT"} <= set(final)
    text = "\n".join(lines)
    assert text.count("--constraint constraints.txt") == 2
    for copied in re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE):
        assert all((ROOT / name).exists() for name in copied.split())
    allowed = (ROOT / ".dockerignore").read_text().split()
    assert {f"!{name}" for name in ("pyproject.toml", "server", "client")} <= set(allowed)
    assert "*" in allowed


@pytest.mark.parametrize("role", ["aggregator", "node"])
def test_health_is_asked_of_whoever_lives_in_the_home(tmp_path: Path, role: str) -> None:
    check = re.search(r"^HEALTHCHECK .*\\\n +CMD ((?:.*\\\n)*.*)$", DOCKERFILE, re.MULTILINE)
    assert check is not None
    shim = tmp_path / "gobelin"
    shim.write_text(f'#!/bin/sh\n[ "$1 $2" = "{role} status" ] && cat "$4/told"\n')
    shim.chmod(0o755)
    if role == "node":
        (tmp_path / "node.toml").touch()
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "GOBELIN_HOME": str(tmp_path)}
    for running in (True, False):
        (tmp_path / "told").write_text(json.dumps({"running": running}))
        done = subprocess.run(["sh", "-c", check[1].replace("\\\n", "")], env=env, check=False)
        assert (done.returncode == 0) == running


@pytest.mark.slow
def test_what_the_compose_file_runs_weaves_a_round_without_a_container(tmp_path: Path) -> None:
    """The services' own scripts, in the order of `depends_on`, with folders for volumes."""
    shim = tmp_path / "bin" / "gobelin"
    shim.parent.mkdir()
    call = "from gobelin.shared.cli import main; main()"
    shim.write_text(f"#!/bin/sh\nexec {sys.executable} -c '{call}' \"$@\"\n")
    shim.chmod(0o755)
    started: list[subprocess.Popen[bytes]] = []

    def run(name: str) -> subprocess.Popen[bytes]:
        service, text = SERVICES[name], script(SERVICES[name])
        own = next(v.split(":")[0] for v in service["volumes"] if ":/var/lib/gobelin" in v)
        home = tmp_path / own / "home"
        home.parent.mkdir(exist_ok=True)
        invite = tmp_path / f"invite-{name[-1]}"
        invite.mkdir(exist_ok=True)
        text = text.replace("aggregator:9092", "127.0.0.1:0").replace("/invite/", f"{invite}/")
        text = text.replace("--data /data", f"--data {tmp_path / f'data-{name[-1]}'}")
        text = text.replace("/var/lib/gobelin/home", str(home))
        text = text.replace("--rounds 20", "--rounds 1").replace(
            "--local-steps 100", "--local-steps 2"
        )
        env = {
            **os.environ,
            "PATH": f"{shim.parent}:{os.environ['PATH']}",
            "GOBELIN_HOME": str(home),
        }
        env |= service.get("environment", {})
        process = subprocess.Popen(["sh", "-euc", text], env=env, start_new_session=True)
        started.append(process)
        return process

    try:
        for number, member in enumerate("abc"):
            data = private_images(tmp_path, member, number)
            (tmp_path / f"data-{member}").symlink_to(data)
        assert run("found").wait(120) == 0
        up = run("aggregator")
        events = tmp_path / "aggregator" / "home" / "flower" / "link.made"
        give_up = time.monotonic() + 120
        while not events.exists():
            assert time.monotonic() < give_up
            time.sleep(0.2)
        for member in "abc":
            assert run(f"invite-{member}").wait(60) == 0
        nodes = [run(f"node-{member}") for member in "abc"]
        assert up.wait(300) == 0
        assert [process.wait(60) for process in nodes] == [0, 0, 0]
        assert (tmp_path / "aggregator" / "home" / "releases" / "release-00001").is_dir()
    finally:
        for process in started:
            if process.poll() is None:
                process.kill()
