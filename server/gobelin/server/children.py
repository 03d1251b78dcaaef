"""The engine's processes: their command lines and their environment.

Without Flower and without tensors, as whoever starts and watches them is: that is for months.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from gobelin.protocols.bundle import SEGMENT
from gobelin.server.home import AggregatorHome
from gobelin.server.tls import TLS13
from gobelin.shared.errors import EngineError

ALLOCATION = {  # of vectors and their segments, in the engine's processes
    # glibc: vectors that are freed go back to the system; what a segment needs is used again, as
    # fresh pages for it cost more than its sums.
    "MALLOC_MMAP_THRESHOLD_": str(SEGMENT * 4 * 2 + 1),
    "MALLOC_TRIM_THRESHOLD_": str(SEGMENT * 4 * 8),
    # A SuperLink has two dozen threads, and glibc keeps what they free in heaps of each: it grew by
    # 30 KB a round of recipe toy, for hundreds of rounds; of two heaps the one uses what the other
    # thread has freed.
    "MALLOC_ARENA_MAX": "2",
    "THP_MEM_ALLOC_ENABLE": "1",  # torch: huge pages, as a page's fault costs more than its sums
}
HOME_VARIABLE = "GOBELIN_AGGREGATOR_HOME"  # how the ServerApp learns its home (never via the run)


@dataclass(frozen=True)
class Ports:
    """Where the SuperLink listens: the published Fleet address and the loopback port."""

    fleet: str  # host:port
    control: int  # on 127.0.0.1


def superlink_command(home: AggregatorHome, ports: Ports) -> list[str]:
    """Command line of the SuperLink."""
    tls = home.tls
    return [
        *(sys.executable, "-P", "-m", "gobelin.server.superlink"),  # bounded, and flwr's own
        *("--isolation", "process"),
        *("--superexec-auth-secret-file", str(home.flower / "superexec.secret")),
        *("--database", str(home.flower / "link.db")),
        *("--ssl-ca-certfile", str(tls / "ca.pem")),
        *("--ssl-certfile", str(tls / "server.pem")),
        *("--ssl-keyfile", str(tls / "server.key")),
        "--enable-supernode-auth",
        "--disable-runtime-dependency-installation",
        *("--fleet-api-address", ports.fleet),
        *("--host", "127.0.0.1", "--port", str(ports.control)),
    ]


def superexec_command(home: AggregatorHome, ports: Ports) -> list[str]:
    """Command line of the superexec, which starts the ServerApp process."""
    return [
        _tool("flower-superexec"),
        *("--runtime-api-address", f"127.0.0.1:{ports.control}"),
        *("--root-certificates", str(home.tls / "ca.pem")),
        *("--superexec-auth-secret-file", str(home.flower / "superexec.secret")),
        *("--parent-pid", str(os.getpid())),
    ]


def service_command(home: AggregatorHome) -> list[str]:
    """Command line of our own service."""
    return [_tool("gobelin"), "aggregator", "serve", "--home", str(home.folder), "--json"]


def page_command(home: AggregatorHome) -> list[str]:
    """Command line of the page."""
    return [_tool("gobelin"), "aggregator", "page", "--home", str(home.folder), "--json"]


def child_environment(home: AggregatorHome) -> dict[str, str]:
    """Environment of the engine's processes: no phone-home, Flower's files under our home."""
    tools = str(Path(sys.executable).parent)
    return {
        **os.environ,
        "PATH": f"{tools}{os.pathsep}{os.environ.get('PATH', '')}",
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_LOG_LEVEL": "WARNING",  # else a line a request: gigabytes in a month of polling
        "FLWR_HOME": str(home.flower.resolve()),
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.5",
        HOME_VARIABLE: str(home.folder.resolve()),
        **ALLOCATION,
        **TLS13,
    }


def _tool(name: str) -> str:
    path = Path(sys.executable).parent / name
    if not path.exists():
        raise EngineError(f"{name} is not installed beside {sys.executable}", "pip install gobelin")
    return str(path)
