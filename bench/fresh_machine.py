"""From a fresh machine to the first accepted contribution: three commands, timed one by one.

A virtual environment of its own stands for the machine: `pip install` of this checkout at the
tested versions, `gobelin node join INVITE`, `gobelin node run`. The federation, which is up before,
is of recipe tiny on loopback; the node's images are random, and a round has 50 local steps.
Downloading torch depends on the network, and is in `install_s`.

Writes bench/results/fresh_machine.json.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from bench.measure import write_result
from examples.loopback import Loopback, gobelin
from gobelin.shared.data.export import write_idx

CHECKOUT = Path(__file__).parent.parent
IMAGES = 4_000


def main() -> None:
    """Join a federation as nobody has before, on this machine."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--name", default="fresh_machine", help="of the result file")
    options = parser.parse_args()
    with TemporaryDirectory() as tmp:
        print(write_result(options.name, join(Path(tmp))))


def join(folder: Path) -> dict[str, object]:
    """Seconds of each command, the last's until the aggregator has counted a contribution."""
    images = torch.randint(0, 256, (IMAGES, 1, 28, 28), generator=torch.Generator().manual_seed(0))
    data = folder / "data"
    write_idx(data, images.to(torch.uint8), torch.zeros(IMAGES, dtype=torch.int64))
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    own, node = folder / "venv" / "bin", folder / "node"
    with Loopback(folder, {}, recipe="tiny", rounds=1_000, local_steps=50) as net:
        net.found()
        net.start_aggregator()
        asked = ("--member", "library", "--pre-approved", "--home", net.aggregator_home, "--json")
        invite = json.loads(gobelin("aggregator", "invite", *asked))["invite"]
        start = time.monotonic()
        run(own / "pip", "install", "--quiet", "-c", CHECKOUT / "constraints.txt", CHECKOUT)
        installed = time.monotonic()
        run(own / "gobelin", "node", "join", invite, "--home", node, "--data", data)
        joined = time.monotonic()
        process = subprocess.Popen([own / "gobelin", "node", "run", "--home", node])
        try:
            net.wait_for("contribution", timeout_s=600)
        finally:
            process.kill()
            process.wait()
        counted = time.monotonic()
    return {
        "goal": "at most 3 commands and 300 seconds",
        "commands": 3,
        "install_s": installed - start,
        "join_s": joined - installed,
        "first_contribution_s": counted - joined,
        "seconds": counted - start,
    }


def run(*arguments: str | Path) -> None:
    """Run a command to its end."""
    subprocess.run([str(argument) for argument in arguments], check=True)


if __name__ == "__main__":
    main()
