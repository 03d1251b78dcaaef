"""Sealed rounds in real federations on loopback, against the open rounds of the same deltas."""

from __future__ import annotations

from pathlib import Path

from examples.loopback import Loopback
from gobelin.shared.checkpoint import read_checkpoint
from gobelin.shared.sealing import Ring, bits_for
from tests.federation.test_loopback import computed_here, federation

NAMES = ("east", "north", "south")
SEALED = ("--sealed", "--min-members", "3")


def sealed(folder: Path, rounds: int, names: tuple[str, ...], *options: str) -> Loopback:
    return federation(folder, rounds, names=names, options=(*SEALED, *options))


def test_a_sealed_federation_ends_at_the_open_ones_digest_on_the_same_grid(tmp_path: Path) -> None:
    with sealed(tmp_path, 2, NAMES) as net:
        net.found()
        net.start()
        net.wait()
        release = read_checkpoint(net.release)
        ring = Ring(bits_for(64, 1.0), 1.0)
        assert release.vector.digest == computed_here(dict(net.members), 2, "fp32", ring=ring)
        rows = release.facts["contributions"]
        assert [row["member"] for row in rows] == list(NAMES)
        assert all(row["delta_norm"] is None for row in rows)
        everything = "".join(net.log(name) for name in ("aggregator", *NAMES))
        assert "Traceback" not in everything
