"""The node's doctor: what will fail here, each with the next command.

A check is a function of the node's home, or of an invite, and returns a `Found`; the table below
is all of them. What takes long is done once, for whichever check asks first.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from gobelin.client.doctor import machine, network, standing, training
from gobelin.client.doctor.patient import Patient
from gobelin.client.home import NodeHome
from gobelin.client.join import read_invite
from gobelin.client.rehearsal import WAIT_S
from gobelin.shared.checkup import Check, Found, skip

Look = Callable[[Patient], Found]
CONNECTS_S = 25.0  # for a check that connects
TABLE: tuple[tuple[str, Look, float], ...] = (
    ("versions", machine.versions, 10),
    ("home", machine.permissions, 10),
    ("settings", machine.settings, 10),
    ("disk", machine.disk, 20),
    ("device", machine.device, 30),
    ("threads", machine.threads, 10),
    ("proxy", network.proxy, 10),
    ("dns", network.dns, 15),
    ("port of rounds", network.rounds_port, CONNECTS_S),
    ("port of the service", network.service_port, CONNECTS_S),
    ("tls pin", network.tls_pin, CONNECTS_S),
    ("clock", network.clock, 60),
    ("upload", network.upload, 60),
    ("certificate", standing.certificate, 10),
    ("enrolment", standing.enrolment, CONNECTS_S),
    ("spool", standing.spool, 20),
    ("egress ledger", standing.egress_ledger, 20),
    ("site policy", standing.site_policy, 30),
    ("data", training.data, 60),
    ("training", training.training, WAIT_S + 10),
    ("round", training.whole_round, WAIT_S + 70),
)
TAKES_TIME = {"upload", "training", "round"}  # left out by --quick


def checks(folder: Path, quick: bool = False) -> list[Check]:
    """The checks of a node's home."""
    patient = Patient.of_home(NodeHome(folder))
    return [_check(patient, *row, quick) for row in TABLE]


def _check(patient: Patient, name: str, look: Look, wait_s: float, quick: bool) -> Check:
    if quick and name in TAKES_TIME:
        return Check(name, lambda: skip("left out by --quick"))
    return Check(name, lambda: look(patient), wait_s)


def checks_of_invite(invite: str, file: Path | None) -> list[Check]:
    """The checks of the way to an invite's aggregator, before joining."""
    patient = Patient.of_invite(read_invite(invite, file))
    named = {"versions", "proxy", "dns", "port of rounds", "port of the service", "device"}
    rows = [row for row in TABLE if row[0] in named]
    rows += [
        ("invite", network.invite, CONNECTS_S),
        ("clock", network.clock, 60.0),
        ("upload", network.upload, 60.0),
    ]
    return [_check(patient, *row, quick=False) for row in rows]
