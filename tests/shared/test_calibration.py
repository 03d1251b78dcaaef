"""Calibration: known cases, and what over-confidence looks like."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from gobelin.shared.errors import DataError
from gobelin.shared.evaluation.calibration import BINS, bin_of, calibration, reliability
from gobelin.shared.seeds import generator_of


def of_logits(scale: float, samples: int = 4000) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and labels drawn from their very softmax, then the logits scaled."""
    random = generator_of(0, "calibration")
    logits = torch.randn(samples, 5, generator=random) * 1.5
    labels = torch.multinomial(logits.softmax(dim=1), 1, generator=random)[:, 0]
    return scale * logits, labels


def test_a_classifier_that_tells_its_own_chances_is_calibrated() -> None:
    found = calibration(*of_logits(1.0), resamples=100)
    assert found.ece.value < 3
    assert abs(found.overconfidence) < 2
    assert all(abs(b.confidence - b.accuracy) < 0.12 for b in found.bins if b.count > 100)


def test_scaled_logits_are_over_or_underconfident_and_worse_in_every_score() -> None:
    sound = calibration(*of_logits(1.0), resamples=100)
    for scale, sign in ((4.0, 1), (0.25, -1)):
        found = calibration(*of_logits(scale), resamples=100)
        assert sign * found.overconfidence > 10
        assert found.ece.low > sound.ece.high
        assert found.brier.low > sound.brier.high
        assert found.nll.low > sound.nll.high


def test_a_guess_among_k_classes_has_the_scores_of_the_books() -> None:
    labels = torch.arange(8) % 4
    found = calibration(torch.zeros(8, 4), labels, resamples=100)
    assert found.nll.value == pytest.approx(math.log(4))
    assert found.brier.value == pytest.approx(0.75)  # (1 − ¼)² + 3 (¼)²
    assert found.ece.value == pytest.approx(0)  # ties go to class 0, which a quarter are of


def test_a_likelihood_survives_certainty_in_the_wrong_class() -> None:
    found = calibration(torch.tensor([[500.0, -500.0]] * 4), torch.ones(4).long(), resamples=100)
    assert found.nll.value == pytest.approx(1000)
    assert found.ece.value == pytest.approx(100)


def test_bins_take_what_is_above_their_lower_edge_and_lose_nobody() -> None:
    edges = np.array([0.0, 1 / BINS, 1 / BINS + 1e-9, 1.0])
    assert bin_of(edges).tolist() == [0, 0, 1, BINS - 1]
    sure = np.random.default_rng(0).random(500)
    assert sum(b.count for b in reliability(sure, sure > 0.5)) == 500


def test_logits_that_are_none_are_refused() -> None:
    with pytest.raises(DataError, match="NaN"):
        calibration(torch.full((2, 2), torch.nan), torch.tensor([0, 1]))
    with pytest.raises(DataError, match="label 2"):
        calibration(torch.zeros(2, 2), torch.tensor([0, 2]))
