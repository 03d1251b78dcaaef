"""A lower bound of ε by trial: whoever tells canaries in from out better than ε allows refutes it.

Of a test with true and false positive rates t and f every (ε, δ) mechanism keeps t ≤ e^ε f + δ
(arXiv:2006.07709). Rates are taken at the wrong end of their Clopper–Pearson intervals.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

CONFIDENCE = 0.95


def epsilon_at_least(
    present: npt.NDArray[np.float64], absent: npt.NDArray[np.float64], delta: float
) -> float:
    """ε that scores with (n,) and without (m,) the canary rule out to be less, at 95 %.

    The threshold is chosen on the first half of both, and judged on the second.
    """
    from scipy.stats import beta  # of dp-accounting

    halves = [np.split(scores, [len(scores) // 2]) for scores in (present, absent)]
    (learn_in, test_in), (learn_out, test_out) = halves
    candidates = np.unique(np.concatenate([learn_in, learn_out]))
    threshold = max(candidates, key=lambda at: _advantage(learn_in, learn_out, at))
    alpha = (1 - CONFIDENCE) / 2
    hits, n = int((test_in >= threshold).sum()), len(test_in)
    alarms, m = int((test_out >= threshold).sum()), len(test_out)
    true = float(beta.ppf(alpha, hits, n - hits + 1)) if hits else 0.0
    false = float(beta.ppf(1 - alpha, alarms + 1, m - alarms)) if alarms < m else 1.0
    return max(0.0, math.log(max(true - delta, 1e-300) / false))


def _advantage(
    present: npt.NDArray[np.float64], absent: npt.NDArray[np.float64], threshold: np.float64
) -> float:
    """ln of the ratio of rates, a count added to each."""
    hits, alarms = int((present >= threshold).sum()), int((absent >= threshold).sum())
    return math.log((hits + 1) / (len(present) + 1)) - math.log((alarms + 1) / (len(absent) + 1))
