"""What is called growth in a soak, and what is not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bench.growth import MB, Look, disk_use, growth_of, per_round, slope
from bench.soak import Soak
from bench.soak_tables import soak_alone_table, soak_table


def life(process: str, rounds: int, rss: list[float], pid: int = 1, first: int = 0) -> list[Look]:
    """A look a round, 36 seconds apart."""
    return [
        Look(36.0 * number, number, process, pid, round(rss[number - first] * MB), 9, 4)
        for number in range(first, first + rounds)
    ]


def test_a_slope_is_not_moved_by_a_fifth_of_outliers() -> None:
    x = np.arange(100.0)
    y = 3 * x + np.random.default_rng(0).normal(0, 0.1, 100)
    y[::5] += 1000
    assert slope(list(x), list(y)) == pytest.approx(3, abs=0.05)
    assert slope([1.0, 1.0], [0.0, 5.0]) == slope([], []) == 0


def test_growth_is_told_per_hour_and_per_round_and_begins_after_the_warm_up() -> None:
    rss = [100.0 + 10 * number for number in range(20)]  # warms up
    rss += [300.0 + 0.5 * number for number in range(100)]
    (grown,) = growth_of(life("superlink", 120, rss), warmup_rounds=20, least_rounds=50)
    assert grown.rss_slope_mb_h == pytest.approx(50, rel=1e-3)
    assert grown.rss_bytes_a_round == pytest.approx(MB / 2, rel=1e-3)
    assert (grown.rounds, grown.fds, grown.threads) == (99, (9, 9), (4, 4))
    assert grown.rss_mb[0] < grown.rss_mb[1]


def test_a_life_that_a_kill_cut_short_has_no_slope() -> None:
    looks = life("north", 40, [1.0] * 40) + life("north", 90, [2.0] * 90, pid=2, first=40)
    (grown,) = growth_of(looks, warmup_rounds=20, least_rounds=50)
    assert grown.rss_mb == (2.0, 2.0)
    assert grown.rss_slope_mb_h == 0


def test_what_a_round_adds_to_the_disk_is_told_by_entry(tmp_path: Path) -> None:
    seen = []
    for number in range(4):
        (tmp_path / "rounds" / f"round-{number}").mkdir(parents=True)
        (tmp_path / "rounds" / f"round-{number}" / "model").write_bytes(bytes(8192))
        (tmp_path / "flower").mkdir(exist_ok=True)
        for name in ("link.db", "link.db-wal", "superlink.log"):
            (tmp_path / "flower" / name).write_bytes(bytes(4096))
        seen.append((number, disk_use(tmp_path)))
    assert seen[0][1].keys() == {"rounds", "flower/link.db", "flower/superlink.log"}
    assert seen[0][1]["flower/link.db"][1] == 2
    assert per_round(seen) == {"rounds": [8192, 1]}


def test_notes_of_a_soak_that_was_killed_itself_lack_a_torn_line(tmp_path: Path) -> None:
    soak = Soak(tmp_path / "killed", 5, 2.0, 0, 60.0)
    soak.folder.mkdir()
    soak._note("pace", round=1, seconds=2.0)
    with (soak.folder / "pace.jsonl").open("a") as file:
        file.write('{"round": 2, "sec')
    assert soak.lines("pace") == [{"round": 1, "seconds": 2.0}]
    soak._note("pace", round=3, seconds=2.5)
    assert [row["round"] for row in soak.lines("pace")] == [1, 3]


def test_the_table_of_a_soak_says_where_no_process_lived_long_enough() -> None:
    pace = {"median": 1.0, "max": 2.0, "sum": 9.0}
    values = {
        **{"rounds": 3, "planned": 9, "undisturbed_rounds": 4, "violations": 0, "lost": 0},
        **{"double": 0, "kills": {"north": 2, "superlink": 1}, "rss_slope_mb_h": None},
        **{"every": 8.0, "seed": 0, "stuck": 240.0, "machine": "a machine", "goal": "none"},
        "undisturbed_seconds_a_round": pace,
        "killed_seconds_a_round": pace,
        "growth": [],
        "disk": {"aggregator": {"rounds": [8192.0, 1.0]}, "node": {}},
    }
    table = soak_table(values)
    assert "| kills | 3 |" in table
    assert "| greatest RSS slope after warm-up, MB/h | – |" in table
    assert "| aggregator's home | rounds | +8,192 | +1.00 |" in table


def test_a_soak_without_kills_has_a_table_of_its_own() -> None:
    pace = {"median": 1.0, "max": 2.0, "sum": 9.0}
    values = {
        **{"rounds": 1200, "planned": 1500, "violations": 1, "rss_slope_mb_h": 0.25},
        **{"undisturbed_seconds_a_round": pace, "machine": "a machine"},
        **{"growth": [], "disk": {"aggregator": {}, "node": {}}},
    }
    table = soak_alone_table(values)
    assert "1,200 rounds, 1 violations, 1.0 seconds" in table
    assert "greatest RSS slope +0.25 MB/h" in table
