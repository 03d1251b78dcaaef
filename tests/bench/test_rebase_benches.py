"""What benches of rebase, head transplant and merging make of what they found."""

from __future__ import annotations

import pytest
import torch

from bench import head_transplant, merging, rebase
from bench.rebase_tables import merging_table, rebase_table, transplant_table
from bench.releases import REGIONS, scanned

ABOUT = {"seeds": [0], "machine": "a machine", "goal": "a goal", "labels": 2000}


def heads(lost: float) -> dict[str, head_transplant.Found]:
    return {
        name: head_transplant.Found(80, 70, 80 - lost, 79, 78, 81, rotation=12) for name in REGIONS
    }


def test_points_lost_are_those_of_releases_that_follow_each_other() -> None:
    rows = {"early": [heads(2), heads(0)], "late": [heads(1)], "refounded": [heads(50)]}
    values = head_transplant.compared(rows)
    assert values["points_lost"]["mean"] == pytest.approx(1)
    assert values["points_lost"]["max"] == 2
    assert values["raw.points_lost"]["mean"] == 10
    assert values["refounded.lost.framed"]["mean"] == 50
    page = transplant_table(ABOUT | values)
    assert "refounded" in page
    assert "+1.00 ± 0.87 pinned" in page


def carried(needed: bool) -> rebase.Found:
    return rebase.Found(
        accuracy={"before": 81, "rebased": 76, "recovered": 80, "fresh": 80, "unaligned": 60},
        seconds={"rebased": 1, "recovered": 3, "fresh": 20},
        masks={m: {"kept": 0.5, "loss": 1, "accuracy": 70} for m in rebase.MASKS},
        needed=needed,
        steps=300,
    )


def test_a_rebase_counts_as_the_command_would_have_left_it() -> None:
    """Recovered, and its time, where the floor asked for it, and not elsewhere."""
    rows = {("full", pair): [carried(True), carried(False)] for pair in rebase.PAIRS}
    values = rebase.compared(rows)
    assert values["share_of_fresh"]["mean"] == pytest.approx((1 + 0.95) / 2)
    assert values["share_of_time"]["max"] == pytest.approx(0.15)
    assert values["share_of_time"]["min"] == pytest.approx(0.05)
    assert values["points_behind_fresh"]["max"] == 4
    page = rebase_table(ABOUT | {"builds": {"full": {}}} | values)
    assert page.count("\n| ") == 9  # heads, rule, five stages, two masks


def test_merging_is_compared_with_the_better_build() -> None:
    seed = {"turned alone": {"turned": 90.0, "negative": 50.0}}
    seed |= {"negative alone": {"turned": 60.0, "negative": 60.0}}
    seed |= {way: {"turned": 80.0, "negative": 76.0} for way in merging.WAYS}
    values = merging.compared("far", [seed])
    assert values["far.ties 0.2.both"]["mean"] == 78
    assert values["far.ties 0.2.worst"]["mean"] == 76
    assert values["far.ties 0.2.over_best_alone"]["mean"] == 8
    page = merging_table(ABOUT | values)
    assert "| ties 0.2 | 80.0" in page
    assert "near" not in page


def test_scanners_change_images_and_can_be_told_apart() -> None:
    image = torch.arange(4, dtype=torch.uint8).view(1, 1, 2, 2)
    assert scanned(image, "plain").tolist() == [[[[0, 1], [2, 3]]]]
    assert scanned(image, "turned").tolist() == [[[[1, 3], [0, 2]]]]
    assert scanned(image, "negative").tolist() == [[[[255, 254], [253, 252]]]]
