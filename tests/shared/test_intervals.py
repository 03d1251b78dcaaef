"""Intervals hold what they promise: coverage, pairing, and textbook values."""

from __future__ import annotations

import numpy as np
import pytest

from gobelin.shared.errors import DataError
from gobelin.shared.evaluation.intervals import (
    Balanced,
    Found,
    Mean,
    Ranking,
    Share,
    Skill,
    difference,
    interval,
    wilson,
)


def test_wilsons_interval_is_as_tables_have_it_at_any_confidence() -> None:
    # Newcombe, Stat. Med. 17 (1998), table I: 81 of 263.
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    narrow, wide = wilson(45, 50, 0.8), wilson(45, 50, 0.99)
    assert wide[0] < narrow[0] < 0.9 < narrow[1] < wide[1]


def test_a_share_takes_wilsons_interval_in_percent() -> None:
    found = interval(Share(np.arange(50) < 45))
    assert (found.value, found.low, found.high) == pytest.approx((90.0, 78.64, 95.65), abs=0.01)


def test_a_bootstrap_of_a_mean_covers_the_truth_as_often_as_it_says() -> None:
    random = np.random.default_rng(0)
    inside = 0
    for trial in range(80):
        found = interval(
            Mean(random.exponential(size=100)), confidence=0.8, resamples=200, seed=trial
        )
        inside += found.low <= 1.0 <= found.high
    assert 0.66 <= inside / 80 <= 0.93  # 80 %, give or take three deviations of 80 trials


def test_pairing_cancels_what_is_hard_for_both() -> None:
    random = np.random.default_rng(1)
    hard = random.random(400)
    first, second = Share(hard < 0.55), Share(hard < 0.5)  # never right where the other is wrong
    paired = difference(first, second, resamples=400)
    apart = interval(first), interval(second)
    assert paired.low > 0
    assert apart[0].low < apart[1].high  # unpaired intervals cannot tell them apart
    assert paired.value == pytest.approx(first.of(np.arange(400)) - second.of(np.arange(400)))


def test_a_model_does_not_differ_from_itself() -> None:
    same = Share(np.arange(30) % 3 == 0)
    assert difference(same, same, resamples=100).facts() == {"value": 0, "low": 0, "high": 0}


def test_other_samples_cannot_be_compared() -> None:
    with pytest.raises(DataError, match="same samples"):
        difference(Share(np.ones(3, bool)), Share(np.ones(4, bool)))
    with pytest.raises(DataError, match="nothing to test"):
        interval(Mean(np.empty(0)))


def test_the_same_seed_redraws_the_same() -> None:
    values = Mean(np.random.default_rng(2).normal(size=50))
    assert interval(values, seed=3) == interval(values, seed=3)
    assert interval(values, seed=3) != interval(values, seed=4)


def test_a_rare_class_weighs_as_much_in_balanced_accuracy() -> None:
    labels = np.array([0] * 98 + [1] * 2)
    found = Balanced(labels == 0, labels)
    assert found.of(np.arange(100)) == 50
    assert Share(labels == 0).of(np.arange(100)) == 98


def test_resamples_keep_both_kinds_however_rare_one_is() -> None:
    odd = np.zeros(200, bool)
    odd[:2] = True
    scores = np.where(odd, 2.0, np.linspace(0, 1, 200))
    found = interval(Ranking(scores, odd), resamples=200)  # raises if a resample lacks a kind
    assert (found.low, found.value, found.high) == (100, 100, 100)


def test_found_counts_anomalies_above_the_allowed_alarms() -> None:
    normal = np.arange(100.0)
    scores = np.concatenate([normal, [50.0, 200.0, 300.0, 400.0]])
    odd = np.concatenate([np.zeros(100, bool), np.ones(4, bool)])
    found = Found(scores, odd, alarms=0.05)
    assert found.of(np.arange(104)) == 75
    threshold = np.quantile(normal, 0.95, method="higher")
    assert (normal > threshold).mean() <= 0.05


def test_skill_is_nought_for_the_reference_and_hundred_for_the_truth() -> None:
    still = np.array([1.0, 2.0, 0.5])
    assert Skill(still, still).of(np.arange(3)) == 0
    assert Skill(np.zeros(3), still).of(np.arange(3)) == 100
    assert Skill(2 * still, still).of(np.arange(3)) == -100
    with pytest.raises(DataError, match="nothing moves"):
        Skill(still, np.zeros(3)).of(np.arange(3))


def test_an_interval_reads_as_a_table_has_it() -> None:
    found = interval(Share(np.arange(50) < 45))
    assert found.text() == "90.0 [78.6, 95.7]"
    assert found.text(0, signed=True) == "+90 [+79, +96]"
