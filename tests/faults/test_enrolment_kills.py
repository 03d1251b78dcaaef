"""Joining and the service are ended by kill −9, one after the other: enrolled, and once.

A sample of what `python -m bench.enrolment_kills` does at every point.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.faults.enrolment import Enrolment, Template
from tests.faults.points import Point

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="file names come from /proc")

SAMPLE = [
    "join:rename:node.key:1:before",
    "join:rename:enrolment.json:1:after",
    "join:grpc:Enrol:1:before",
    "service:answer:Enrol:1:before",
    "service:append:aggregator/roster/log.jsonl:1:torn",
    "join:grpc:Enrol:1:after",  # admitted, and the node has not heard it
]


@pytest.mark.timeout(600)
def test_killed_at_one_step_after_the_other_a_node_ends_enrolled_and_once(tmp_path: Path) -> None:
    plan = [Point.parse(text) for text in SAMPLE]
    outcome = Enrolment(Template.found(tmp_path / "template"), tmp_path / "net", plan).run()
    assert outcome.wrong == []
    assert outcome.reached == plan
    assert outcome.tries == 1 + sum(point.process == "join" for point in plan)
