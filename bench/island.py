"""Island mode: every command a region needs, without any network, and how often one asked for it.

All of it runs in a network namespace that has a loopback interface and no other (`unshare -rn`),
each command under strace. Counted is every connect(), and every datagram, to an internet address of
this machine or another. One command that does connect shows that the count counts.

Writes bench/results/island.json.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import torch

from bench.measure import write_result
from examples.loopback import GOBELIN
from gobelin.shared.data.export import write_idx
from gobelin.shared.errors import GobelinError
from gobelin.shared.signing import public_signing_pem
from tests.keys import signing_key
from tests.releases import write_release

AGGREGATOR = signing_key(77)
INSIDE = "--inside"  # the namespace
ATTEMPT = re.compile(r"(?:connect|sendto|sendmsg|sendmmsg)\(.*sa_family=AF_INET6?,")
CONTROL = "import socket; socket.socket().connect_ex(('192.0.2.1', 9))"  # RFC 5737: of nobody
READY_S = 300.0
GROUPS = ("release", "serve", "sovereign", "verify")  # commands that need no federation


@dataclass(frozen=True)
class Island:
    """A folder with what a region has: a stick, a home, labelled data."""

    folder: Path

    def release(self, number: int) -> str:
        """Where the release of a round lies once it is fetched."""
        return str(self.folder / "home" / "releases" / f"release-{number:05d}")

    def found(self) -> None:
        """Make what was there before the network went."""
        for number in (2, 4):
            write_release(self.folder / "stick", number, AGGREGATOR)
        (self.folder / "home").mkdir()
        (self.folder / "home" / "ca.pem").write_bytes(public_signing_pem(AGGREGATOR.public))
        for name, count in (("labelled", 90), ("test", 60)):
            write_idx(self.folder / name, *samples(count, len(name)))

    def commands(self) -> list[tuple[str, list[str]]]:
        """Each command with its arguments, in an order in which each finds what it needs."""
        at = {name: str(self.folder / name) for name in ("stick", "home", "labelled", "test")}
        home, fetched = ["--home", at["home"]], ["--from", at["stick"], "--home", at["home"]]
        old, new = self.release(2), self.release(4)
        model, other = str(self.folder / "model"), str(self.folder / "other")
        given = ["--data", at["labelled"], "--test", at["test"]]
        linear = ["--release", old, *given, *home, "--method", "linear"]
        forms = ["hf", *["onnx"] * (importlib.util.find_spec("onnxscript") is not None)]

        def out(name: str) -> list[str]:
            return ["--out", str(self.folder / name)]

        return [
            ("release list", fetched),
            ("release get", ["2", *fetched]),
            ("release get", fetched),
            ("release verify", home),
            ("verify", [new, "--key", str(self.folder / "home" / "ca.pem")]),
            ("sovereign example", []),
            ("sovereign build", [*linear, *out("model")]),
            ("sovereign build", [*linear, *out("other"), "--set", "labels.budget=40"]),
            ("sovereign evaluate", [model, *given, *out("report"), "--release", old, *home]),
            ("sovereign rebase", [model, "--onto", new, "--from", old, *home, *out("rebased")]),
            (
                "sovereign merge",
                [model, other, "--head", "joined", "--release", old, *home, *out("merged")],
            ),
            *(("sovereign export", [model, "--to", to, *out(to)]) for to in forms),
            ("serve", [model, "--json"]),
        ]


def samples(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images (N, 1, 28, 28) that are brighter above or below, and which (N,)."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 2, (count,), generator=random)
    images = torch.randint(0, 80, (count, 1, 28, 28), generator=random)
    for image, label in zip(images, labels.tolist(), strict=True):
        image[:, 14 * label : 14 * label + 14] += 150
    return images.to(torch.uint8), labels


def registered() -> list[str]:
    """The commands there are, as `group command`, or the group alone where it is one."""
    import click

    from gobelin.shared.cli import gobelin

    context, found = click.Context(gobelin), []
    for group in GROUPS:
        command = gobelin.get_command(context, group)
        if isinstance(command, click.Group):
            found += [f"{group} {name}" for name in command.list_commands(click.Context(command))]
        elif command is not None:
            found.append(group)
    return found


def chosen(known: list[tuple[str, list[str]]]) -> list[tuple[str, list[str]]]:
    """Those to run, in order; raises GobelinError where one is registered and not known here."""
    there = set(registered())
    unknown = sorted(there - {name for name, _ in known})
    if unknown:
        raise GobelinError(f"island mode of {', '.join(unknown)} is not tried", "add it here")
    return [command for command in known if command[0] in there]


def attempts(trace: Path) -> list[str]:
    """Lines of strace that ask for an internet address."""
    files = trace.parent.glob(f"{trace.name}.*")
    lines = (line for file in files for line in file.read_text(errors="replace").splitlines())
    return [line for line in lines if ATTEMPT.search(line)]


def traced(trace: Path, command: list[str]) -> list[str]:
    """A command under strace, which writes a file a process."""
    calls = "trace=connect,sendto,sendmsg,sendmmsg"
    return ["strace", "-ff", "--seccomp-bpf", "-e", calls, "-o", str(trace), *command]


def run(name: str, arguments: list[str], trace: Path) -> list[str]:
    """Run one command to its end, or ask it and stop it; returns what it asked the network."""
    command = traced(trace, [str(GOBELIN), *name.split(), *arguments])
    if name == "serve":
        with asked(command):
            pass
    else:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise GobelinError(f"{name} ended with {done.returncode}: {done.stderr[-500:]}")
    return attempts(trace)


@contextlib.contextmanager
def asked(command: list[str]) -> Iterator[None]:
    """A server that is asked whatever it can be, and stopped."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            if not select.select([process.stdout], [], [], READY_S)[0]:
                raise GobelinError("the server never said where it listens")
            url = json.loads(process.stdout.readline())["url"]
            body = {"samples": [{"values": image.tolist()} for image in samples(3, 9)[0]]}
            with httpx.Client(base_url=url, timeout=60, trust_env=False) as client:
                for path in ("/embed", "/classify"):
                    client.post(path, json=body).raise_for_status()
                client.get("/health").raise_for_status()
            yield
        finally:
            for pid in _children(process.pid):  # strace passes no signal on
                os.kill(pid, signal.SIGTERM)


def _children(pid: int) -> list[int]:
    return [int(found) for found in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def interfaces() -> list[str]:
    """Names of the network interfaces there are."""
    lines = Path("/proc/net/dev").read_text().splitlines()[2:]
    return [line.split(":")[0].strip() for line in lines]


def measure(folder: Path) -> dict[str, Any]:
    """Run all commands in a namespace without a network."""
    if (there := interfaces()) != ["lo"]:
        raise GobelinError(f"this is no island: it has {', '.join(there)}")
    subprocess.run(traced(folder / "control", [sys.executable, "-c", CONTROL]), check=True)
    island = Island(folder)
    island.found()
    found: dict[str, int] = {}
    for place, (name, arguments) in enumerate(chosen(island.commands())):
        lines = run(name, arguments, folder / f"trace-{place}")
        found[name] = found.get(name, 0) + len(lines)
        print(f"{name}: {len(lines)} attempts", flush=True)
    return {
        "connection_attempts": sum(found.values()),
        "commands": found,
        "interfaces": there,
        "control_attempts": len(attempts(folder / "control")),
        "goal": "0 connection attempts",
    }


def main() -> None:
    """Go to the island, or say why there is none, and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(INSIDE, action="store_true", help=argparse.SUPPRESS)
    if parser.parse_args().inside:
        with tempfile.TemporaryDirectory() as folder:
            print(write_result("island", measure(Path(folder))))
        return
    missing = [tool for tool in ("unshare", "ip", "strace") if shutil.which(tool) is None]
    if missing:
        sys.exit(f"this bench needs {', '.join(missing)}")
    up = 'ip link set lo up && exec "$@"'
    inside = [sys.executable, "-m", "bench.island", INSIDE]
    sys.exit(
        subprocess.run(["unshare", "-rn", "sh", "-c", up, "sh", *inside], check=False).returncode
    )


if __name__ == "__main__":
    main()
