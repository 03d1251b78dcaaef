"""The aggregator's doctor: what will fail here, each with the next command.

A check is a function of the aggregator's home and returns a `Found`; the table below is all of
them. None writes anything, so they may run beside `gobelin aggregator up`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from gobelin.server.doctor import machine, network, standing
from gobelin.server.home import AggregatorHome
from gobelin.shared.checkup import Check, Found

TABLE: tuple[tuple[str, Callable[[AggregatorHome], Found], float], ...] = (
    ("versions", machine.versions, 10),
    ("settings", machine.settings, 10),
    ("home", machine.permissions, 10),
    ("disk", machine.disk, 30),
    ("processes", network.processes, 10),
    ("port of rounds", network.rounds_port, 25),
    ("port of the service", network.service_port, 25),
    ("certificate", network.certificate, 10),
    ("private ports", network.private_ports, 25),
    ("clock", standing.clock, 10),
    ("rounds", standing.rounds, 30),
    ("journal", standing.journal, 30),
    ("ledger", standing.ledger, 60),
    ("releases", standing.releases, 30),
    ("quorum", standing.quorum, 20),
    ("requests", standing.requests, 10),
)


def checks(folder: Path, quick: bool = False) -> list[Check]:
    """The checks of an aggregator's home; all of them are quick."""
    home = AggregatorHome(folder)
    return [_check(home, *row) for row in TABLE]


def _check(
    home: AggregatorHome, name: str, look: Callable[[AggregatorHome], Found], wait_s: float
) -> Check:
    return Check(name, lambda: look(home), wait_s)
