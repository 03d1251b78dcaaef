"""A built image, in a container: `GOBELIN_TEST_IMAGE=gobelin pytest -m slow tests/deploy`."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
IMAGE = os.environ.get("GOBELIN_TEST_IMAGE", "")
ENGINE = shutil.which("docker") or shutil.which("podman")
CONFINED = (
    *("--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--network", "none"),
    *("--security-opt", "no-new-privileges"),
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not IMAGE, reason="no GOBELIN_TEST_IMAGE names an image that was built"),
    pytest.mark.skipif(ENGINE is None, reason="neither docker nor podman here"),
]


def engine(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(ENGINE), *words], capture_output=True, text=True, check=False)


def inside(script: str) -> subprocess.CompletedProcess[str]:
    """What a shell says in a container of its own, which is confined as the compose file's are."""
    return engine("run", "--rm", *CONFINED, "--entrypoint", "sh", IMAGE, "-c", script)


@pytest.fixture
def founding() -> Iterator[str]:
    """A container that will found a federation and run it; its name."""
    script = (
        'gobelin aggregator init --name trial --recipe toy --home "$GOBELIN_HOME" '
        '&& exec gobelin aggregator up --home "$GOBELIN_HOME"'
    )
    options = (*CONFINED, "--entrypoint", "sh")
    done = engine("run", "--detach", *options, IMAGE, "-c", script)
    assert done.returncode == 0, done.stderr
    name = done.stdout.strip()
    yield name
    engine("rm", "--force", "--volumes", name)


def test_it_runs_read_only_as_a_user_without_capabilities() -> None:
    done = engine("run", "--rm", *CONFINED, IMAGE)
    assert done.returncode == 0, done.stderr
    assert "Usage: gobelin" in done.stdout
    done = inside("id -u; id -g; grep -E '^(CapEff|CapBnd|NoNewPrivs)' /proc/self/status")
    uid, gid, *status = done.stdout.split("\n")
    assert (uid, gid) == ("10001", "10001")
    assert [int(line.split()[1], 16) for line in status if line.startswith("Cap")] == [0, 0]
    for place in ("/", "/opt/gobelin", "/invite", "/usr"):
        assert inside(f"touch {place}/x").returncode != 0, place
    assert inside("touch /tmp/x /var/lib/gobelin/x").returncode == 0


def test_it_holds_what_was_installed_and_nothing_besides() -> None:
    versions = dict(
        line.lower().replace("_", "-").split("==")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line
    )
    done = inside("/opt/gobelin/bin/pip check && /opt/gobelin/bin/pip list --format freeze")
    assert done.returncode == 0, done.stdout + done.stderr
    installed = re.findall(r"^([\w.-]+)==([^+\s]+)", done.stdout, re.MULTILINE)
    assert {"gobelin", "torch", "flwr"} <= {name for name, _ in installed}
    for name, version in installed:
        assert versions.get(name.lower().replace("_", "-"), version) == version, name
    done = inside(
        "find / -xdev -name .git -o -path '*/.cache/pip' -o -path '/opt/*.whl' 2>/dev/null;"
        "ls -A /var/lib/gobelin /invite; ls /src 2>/dev/null; stat -c %a /var/lib/gobelin /invite"
    )
    listed = [line for line in done.stdout.split("\n") if line and not line.endswith(":")]
    assert listed == ["700", "700"]


def test_torch_was_compiled_where_it_could_be_written() -> None:
    script = "ls /opt/gobelin/lib/python*/site-packages/torch/__pycache__ | wc -l"
    assert int(inside(script).stdout) > 10


def test_it_is_healthy_once_the_aggregator_is_up_and_not_before(founding: str) -> None:
    (facts,) = json.loads(engine("image", "inspect", IMAGE).stdout)
    check = facts["Config"].get("Healthcheck") or facts.get("HealthCheck")
    assert check, "built without its health check: `podman build --format docker`"
    kind, *words = check["Test"]
    command = ["sh", "-c", *words] if kind == "CMD-SHELL" else words
    assert engine("exec", founding, *command).returncode != 0
    give_up = time.monotonic() + 240
    while engine("exec", founding, *command).returncode != 0:
        assert time.monotonic() < give_up, engine("logs", founding).stdout
        time.sleep(1)
