"""Island mode: after `release get`, a region needs no network for anything."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bench.island import Island

GUARD = Path(__file__).parents[1] / "federation" / "guard"
SCRIPT = """
import json, sys
from pathlib import Path
from typer.testing import CliRunner
from starlette.testclient import TestClient
from bench.island import Island, interfaces
from gobelin.client.release_cli import app as release
from gobelin.client.serving.server import make_app
from gobelin.client.sovereign import load
from gobelin.client.sovereign_cli import app as sovereign

island = Island(Path(sys.argv[1]))
SLOW = ("evaluate", "rebase", "merge")
apps, ran = {"release": release, "sovereign": sovereign}, []
for name, arguments in island.commands():
    group, _, command = name.partition(" ")
    if group not in apps or command in SLOW or "onnx" in arguments:
        continue
    done = CliRunner().invoke(apps[group], [command, *arguments])
    assert done.exit_code == 0, (name, done.output, done.exception)
    ran.append(name)
client = TestClient(make_app(load(island.folder / "model"), 10**6, None))
asked = {"samples": [{"values": [[[9] * 28] * 28]}]}
assert client.post("/classify", json=asked).status_code == 200
print(json.dumps({"ran": ran, "interfaces": interfaces()}))
"""


def test_a_region_needs_no_network(tmp_path: Path) -> None:
    """One process does it all, in a namespace without a network where this machine has them."""
    unshare = shutil.which("unshare")
    before = [unshare, "-rn"] if unshare else []
    if before and subprocess.run([*before, "true"], check=False, capture_output=True).returncode:
        before = []  # user namespaces are off: the guard alone watches
    Island(tmp_path).found()
    (tmp_path / "guard").mkdir()
    paths = [str(GUARD), str(Path.cwd()), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "GOBELIN_GUARD": str(tmp_path / "guard"),
    }
    done = subprocess.run(
        [*before, sys.executable, "-c", SCRIPT, str(tmp_path)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(done.stdout.splitlines()[-1])
    wanted = {"release get", "release verify", "sovereign build", "sovereign export"}
    assert wanted <= set(told["ran"])
    if before:
        assert told["interfaces"] == ["lo"]
    audit = tmp_path / "guard" / "audit"
    lines = audit.read_text().splitlines() if audit.exists() else []
    assert not [line for line in lines if line.startswith("socket.")], lines


@pytest.mark.slow
def test_the_bench_counts_none_and_its_control_one(tmp_path: Path) -> None:
    for tool in ("unshare", "strace", "ip"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not here")
    script = (
        "import json, sys; from pathlib import Path; from bench.island import measure; "
        "print(json.dumps(measure(Path(sys.argv[1]))))"
    )
    up = 'ip link set lo up && exec "$@"'
    command = ["unshare", "-rn", "sh", "-c", up, "sh", sys.executable, "-c", script, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    told = json.loads(done.stdout.splitlines()[-1])
    assert (told["connection_attempts"], told["control_attempts"]) == (0, 1)
