"""Sample efficiency: how a probe's accuracy rises with the labels it gets."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from gobelin.shared.errors import ConfigError
from gobelin.shared.evaluation.probes import DRAWS, few_shot_draws, linear_probe

SHOTS = (1, 2, 5, 10, 20, 50, 100)

Probe = Callable[[Tensor, Tensor, Tensor, Tensor, int], tuple[float, Any]]


@dataclass(frozen=True)
class CurvePoint:
    """A probe's test accuracy in percent at `shots` labels a class, over draws of the labels."""

    shots: int
    labels: int  # in all; a class with fewer than `shots` gives what it has
    accuracy: float  # mean over draws
    deviation: float  # over draws, of the sample; 0 for a single draw


def sample_efficiency(
    train_x: Tensor,
    train_y: Tensor,
    test_x: Tensor,
    test_y: Tensor,
    classes: int,
    *,
    shots: Sequence[int] = SHOTS,
    probe: Probe = linear_probe,
    draws: int = DRAWS,
    seed: int = 0,
) -> list[CurvePoint]:
    """The learning curve of a probe on features (N, ...), by rising shots.

    A draw's labels at few shots are among its labels at more, so a curve's points are compared on
    like terms. Raises ConfigError on shots or draws below one, DataError as the probe does.
    """
    if not shots or min(shots) < 1 or draws < 1:
        raise ConfigError(f"a curve of {draws} draws at {list(shots)} labels a class", "give ≥ 1")
    counts = train_y.bincount(minlength=classes)
    curve = []
    for each in sorted(set(shots)):
        found = few_shot_draws(
            train_x,
            train_y,
            test_x,
            test_y,
            classes,
            shots=each,
            probe=probe,
            draws=draws,
            seed=seed,
        )
        deviation = statistics.stdev(found) if draws > 1 else 0.0
        labels = int(counts.clamp(max=each).sum())
        curve.append(CurvePoint(each, labels, statistics.fmean(found), deviation))
    return curve
