"""ε is dp-accounting's, for the sampler that really runs."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from gobelin.client.privacy.accounting import Spend, epsilon
from gobelin.client.privacy.noise import Secret
from gobelin.client.privacy.sampling import PoissonStream
from gobelin.shared.data.bad_input import BadInput
from gobelin.shared.errors import PrivacyError

pytest.importorskip("dp_accounting")


class Numbers:
    """Samples that are their own numbers."""

    labels = class_names = block = None
    skipped = BadInput("refuse")

    def __init__(self, count: int) -> None:
        self._count = count

    def __len__(self) -> int:
        return self._count

    def read(self, indices: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(indices)


def test_epsilon_is_the_published_one() -> None:
    # dp-accounting 0.6's own test of a Poisson-sampled Gaussian: q = 0.2, σ = 0.5, thrice.
    spends = [Spend(0.5, 0.2, 1), Spend(0.5, 0.2, 2)]
    assert epsilon(spends, 0.15594) == pytest.approx(1.0, abs=1e-3)


def test_without_sampling_epsilon_is_the_gaussian_mechanisms_closed_form() -> None:
    # 100 steps at σ = 6 are one at 0.6; ε = 8.000 at δ = 1e-5 by arXiv:1905.02383, Cor. 2.13.
    sigma, delta = 6 / math.sqrt(100), 1e-5

    def exact(eps: float) -> float:
        def phi(x: float) -> float:
            return 0.5 * math.erfc(-x / math.sqrt(2))

        mu = 1 / sigma
        return phi(-eps / mu + mu / 2) - math.exp(eps) * phi(-eps / mu - mu / 2)

    found = epsilon([Spend(6.0, 1.0, 100)], delta)
    assert exact(found) <= delta  # on the safe side
    assert exact(found * 0.995) > delta  # and within half a percent


def test_what_is_spent_adds_up_and_never_falls() -> None:
    one = Spend(1.0, 0.01, 50)
    rounds = [epsilon([one] * count, 1e-5) for count in range(4)]
    assert rounds[0] == 0
    assert rounds == sorted(rounds)
    assert rounds[3] == epsilon([Spend(1.0, 0.01, 150)], 1e-5)
    mixed = epsilon([one, Spend(0.7, 0.02, 10)], 1e-5)
    assert mixed > rounds[1]


def test_every_sample_is_drawn_by_a_toss_of_its_own() -> None:
    stream = PoissonStream(Numbers(2000), 100, Secret(bytes(32)))
    assert stream.probability == 0.05
    drawn = [stream.indices(step) for step in range(300)]
    sizes = np.array([len(each) for each in drawn])
    assert abs(sizes.mean() - 100) < 5 * math.sqrt(95 / 300)
    assert abs(sizes.var() / 95 - 1) < 0.5  # binomial: a fixed size would have none
    times = np.bincount(np.concatenate(drawn), minlength=2000)
    assert abs(times.mean() - 15) < 0.5
    assert abs(times.var() / 14.25 - 1) < 0.2  # an epoch's order would have none


def test_draws_are_a_function_of_secret_and_step() -> None:
    stream = PoissonStream(Numbers(100), 50, Secret(bytes(32)))
    again = PoissonStream(Numbers(100), 50, Secret(bytes(32)))
    assert np.array_equal(stream.indices(7), again.indices(7))
    assert not np.array_equal(stream.indices(7), stream.indices(8))
    other = PoissonStream(Numbers(100), 50, Secret(b"x" * 32))
    assert not np.array_equal(stream.indices(7), other.indices(7))


def test_a_step_may_draw_nobody_and_a_batch_needs_more_data_than_it_has() -> None:
    stream = PoissonStream(Numbers(3), 1, Secret(bytes(32)))
    assert 0 in {len(stream.batch(step)) for step in range(30)}
    with pytest.raises(PrivacyError, match="of 3 samples"):
        PoissonStream(Numbers(3), 3, Secret(bytes(32)))
