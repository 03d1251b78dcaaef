"""What a running systemd lets a service do: as root, `pytest -m slow tests/deploy`."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

UNITS = Path(__file__).parents[2] / "deploy" / "systemd"
PYTHON = Path("/usr/bin/python3")  # which no ProtectHome= hides
# What starts and ends a service, and not what it may do.
LIFE = re.compile(
    r"(Exec|Type|Notify|Watchdog|Restart|Timeout|KillMode|StartLimit|User|Group|EnvironmentFile)"
)
PROBE = """
import ctypes, json, os, socket, sys
own, other, home, private = sys.argv[1:]
libc = ctypes.CDLL(None, use_errno=True)
def works(do):
    try:
        return do() not in (-1, False)
    except OSError:
        return False
def write(folder):
    return works(lambda: open(folder + "/probe", "w").close())
print(json.dumps({
    "own home": write(own), "tmp": write("/tmp"), "another home": write(other),
    "read another home": works(lambda: bool(os.listdir(other))),
    "beside the homes": write(os.path.dirname(own)), "etc": write("/etc"), "usr": write("/usr"),
    "data": write(private), "read data": works(lambda: bool(os.listdir(private))),
    "read /home": works(lambda: bool(os.listdir(home))),
    "disks": any(name.startswith(("sd", "vd", "nvme", "loop")) for name in os.listdir("/dev")),
    "namespace": works(lambda: libc.unshare(0x10000000)),
    "trace": works(lambda: libc.ptrace(0, 0, 0, 0)),
    "packets": works(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close()),
    "tcp": works(lambda: socket.socket().close()),
    "capabilities": open("/proc/self/status").read().split("CapEff:")[1].split()[0].strip("0"),
}))
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        os.geteuid() != 0 or not Path("/run/systemd/system").is_dir() or not PYTHON.exists(),
        reason="systemd does not run here, or this is not root",
    ),
]


@pytest.fixture
def places() -> Iterator[Path]:
    """A stand-in for /var/lib/gobelin with two homes, and private data; /tmp is a service's own."""
    root = Path(f"/var/lib/gobelin-test-{os.getpid()}")
    for folder in ("homes/own", "homes/other", "data"):
        (root / folder).mkdir(parents=True)
        (root / folder).chmod(0o777)
        (root / folder / "file").write_text("private")
    visible = Path(f"/home/gobelin-test-{os.getpid()}")
    visible.mkdir(parents=True)
    yield root
    shutil.rmtree(root)
    visible.rmdir()


@pytest.mark.parametrize("role", ["aggregator", "node"])
def test_a_service_is_kept_in_its_home(role: str, places: Path) -> None:
    text = (UNITS / f"gobelin-{role}@.service").read_text().split("[Service]")[1].split("[Ins")[0]
    lines = [line for line in text.split("\n") if re.match(r"[A-Z]\w+=", line)]
    properties = [line for line in lines if not LIFE.match(line)]
    homes = str(places / "homes")
    told = [line.replace("/var/lib/gobelin", homes).replace("%i", "own") for line in properties]
    assert any(homes in line for line in told)
    done = subprocess.run(
        [
            *("systemd-run", "--quiet", "--wait", "--pipe", "--collect", "-p", "User=nobody"),
            *(word for line in told for word in ("-p", line)),
            *(str(PYTHON), "-c", PROBE, f"{homes}/own", f"{homes}/other"),
            *("/home", str(places / "data")),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    allowed = {name for name, can in json.loads(done.stdout).items() if can}
    sees = {"read /home"} if role == "node" else set()
    assert allowed == {"own home", "tmp", "read data", "tcp"} | sees
