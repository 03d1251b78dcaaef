"""What has been spent: ε at a δ, by composition of privacy loss distributions.

dp-accounting does the arithmetic, for Poisson-sampled Gaussian mechanisms under add-or-remove-one.
PLD is tight up to its grid, which errs on the safe side; RDP would tell more than was spent.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from gobelin.shared.errors import ConfigError


@dataclass(frozen=True)
class Spend:
    """The steps behind one contribution."""

    noise_multiplier: float  # σ
    sampling_probability: float  # q
    steps: int

    def facts(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)


def epsilon(spends: Iterable[Spend], delta: float) -> float:
    """ε at δ of all that was spent, every step known to the adversary; 0 for nothing."""
    steps: Counter[tuple[float, float]] = Counter()
    for spend in spends:
        steps[spend.noise_multiplier, spend.sampling_probability] += spend.steps
    return _epsilon(tuple(sorted(steps.items())), delta)


@functools.lru_cache(maxsize=64)
def _epsilon(steps: tuple[tuple[tuple[float, float], int], ...], delta: float) -> float:
    try:
        import dp_accounting
        from dp_accounting.pld import PLDAccountant
    except ImportError:
        raise ConfigError(
            "accounting for privacy needs dp-accounting", "pip install 'gobelin[privacy]'"
        ) from None
    accountant = PLDAccountant()
    for (noise, probability), count in steps:
        if count:
            one = dp_accounting.PoissonSampledDpEvent(
                probability, dp_accounting.GaussianDpEvent(noise)
            )
            accountant.compose(dp_accounting.SelfComposedDpEvent(one, count))
    return float(accountant.get_epsilon(delta))
