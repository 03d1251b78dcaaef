"""What a node's operator reads where there is no terminal."""

from __future__ import annotations

from pathlib import Path

import pytest

from gobelin.client.home import NodeStatus
from gobelin.client.progress import Progress

WAITING = NodeStatus("idle", note="connected; waiting for a round")


def test_a_node_says_once_that_it_is_ready(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("north", False, Path("home")) as progress:
        progress.on_status(NodeStatus("warning", note="the aggregator is silent"))
        for _ in range(2):
            progress.on_status(WAITING)
            progress.on_status(NodeStatus("spooled", round=1, note="waiting for a receipt"))
    lines = capsys.readouterr().out.splitlines()
    ready = (
        "north is ready; Ctrl-C stops it and loses nothing. Next: gobelin node watch --home home"
    )
    assert [number for number, line in enumerate(lines) if line == ready] == [1]
    assert lines[0] == "north: warning: the aggregator is silent"


def test_programs_read_the_log_alone(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("north", True, Path("home")) as progress:
        progress.on_status(WAITING)
    assert capsys.readouterr().out == ""
