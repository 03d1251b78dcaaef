"""The doctor beside a federation that is at work: both roles are well, and stay so."""

from __future__ import annotations

from pathlib import Path

import pytest

from gobelin.client.doctor import checks as node_checks
from gobelin.server.doctor import checks as aggregator_checks
from gobelin.shared.checkup import run_checks
from tests.federation.test_loopback import federation


@pytest.mark.slow
def test_a_federation_at_work_is_well(tmp_path: Path) -> None:
    with federation(tmp_path, rounds=40) as net:
        net.found()
        net.start()
        net.wait_for("round_sealed", 1, 300)
        found = {row.check: row for row in run_checks(aggregator_checks(net.aggregator_home))}
        assert [row for row in found.values() if row.verdict == "fail"] == []
        assert found["port of rounds"].verdict == "ok"
        assert found["processes"].verdict == "ok"
        assert "on no other address" in found["private ports"].found
        rows = run_checks(node_checks(net.node_home("north")))
        assert [row for row in rows if row.verdict == "fail"] == []
        told = {row.check: row for row in rows}
        assert told["tls pin"].verdict == "ok"
        assert told["training"].verdict == "ok"
        assert told["round"].facts["up_s"] > 0  # from its last contributions
        assert net.processes["north"].poll() is None
