"""How long after a node falls silent the page and its alerts say so, in a real federation.

Three nodes and an aggregator on loopback, each by its own command; the page is supervised by
`aggregator up` and open in a real browser. A node is killed (kill −9) or stopped (SIGSTOP, as a
machine that sleeps), then goes on, and the page has to say so as well.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import httpx
import torch

from bench.measure import spread, write_result
from bench.pages import browser
from examples.loopback import Loopback
from gobelin.server.supervisor import free_port
from gobelin.shared.data.export import write_idx

FOLDER = Path("runs/stuck_visible")
GOAL = "a stuck or silent node is on the page and in the alerts within 60 s"
NODES = ("library", "museum", "school")
SILENT = "#alerts li:has-text('{0} was last seen')"


def main() -> None:
    """Measure and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=3, help="of each way to fall silent")
    options = parser.parse_args()
    shutil.rmtree(FOLDER, ignore_errors=True)
    found: dict[str, list[float]] = {"killed": [], "stopped": [], "back": [], "alerts": []}
    members = {name: images(name, seed) for seed, name in enumerate(NODES)}
    with Loopback(FOLDER.absolute(), members, rounds=100_000, local_steps=2) as net:
        net.found()
        port = free_port()
        settings = net.aggregator_home / "federation.toml"
        settings.write_text(settings.read_text().replace("[page]\n", f"[page]\nport = {port}\n"))
        net.start()
        net.wait_for("round_sealed", timeout_s=600)
        with browser() as chromium:
            page = chromium.new_page()
            url = f"http://127.0.0.1:{port}"
            page.goto(url, timeout=120_000)
            page.wait_for_selector("#link.good", timeout=120_000)
            for _ in range(options.times):
                for way in ("killed", "stopped"):
                    once(net, page, url, way, found)
    result = {way: spread(values) for way, values in found.items()}
    worst = max(found["killed"] + found["stopped"] + found["alerts"])
    path = write_result(
        "stuck_visible", {**result, "times": options.times, "seconds": worst, "goal": GOAL}
    )
    print(path.read_text())


def once(net: Loopback, page: Any, url: str, way: str, found: dict[str, list[float]]) -> None:
    """Let one node fall silent and come back; the seconds until each is told."""
    name = "school"
    process = net.processes[name]
    selector = SILENT.format(name)
    started = time.monotonic()
    process.send_signal(signal.SIGKILL if way == "killed" else signal.SIGSTOP)
    told = None
    while told is None:  # what `status --json` and programs see
        alerts = httpx.get(f"{url}/overview.json", timeout=60).json()["alerts"]
        if any(a["code"] == "node_silent" and name in a["where"] for a in alerts):
            told = time.monotonic() - started
        time.sleep(0.25)
    page.wait_for_selector(selector, timeout=120_000)
    found[way].append(time.monotonic() - started)
    found["alerts"].append(told)
    if way == "killed":
        process.wait()
        net.start_node(name)
    else:
        process.send_signal(signal.SIGCONT)
    started = time.monotonic()
    page.wait_for_selector(selector, state="detached", timeout=300_000)
    found["back"].append(time.monotonic() - started)
    print(way, f"{found[way][-1]:.1f} s, back after {found['back'][-1]:.1f} s", flush=True)
    time.sleep(5)


def images(member: str, seed: int) -> Path:
    """Some private images of a member."""
    generator = torch.Generator().manual_seed(seed)
    made = torch.randint(0, 256, (64, 1, 28, 28), dtype=torch.uint8, generator=generator)
    folder = (FOLDER / "data" / member).absolute()
    write_idx(folder, made, torch.zeros(64, dtype=torch.int64))
    return folder


if __name__ == "__main__":
    main()
