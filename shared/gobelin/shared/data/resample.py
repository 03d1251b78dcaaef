"""A series brought onto another sampling rate, piece by piece."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

GAP = 1.5  # typical intervals: farther apart, and a sample is missing in between
SNAP = 1e-6  # of an interval: a time this close to a sample's is the sample's


class Resampler:
    """Linear interpolation onto t0 + k / rate; where there is a gap, and beside NaN, it is NaN.

    The typical interval is the median of the first piece's. Channels are interpolated alone. No
    filter: frequencies above half the new rate alias, so that data much faster than the recipe's
    rate should be smoothed before.
    """

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._times: Floats = np.empty(0)  # the last sample, or all before the second
        self._values: Floats = np.empty((0, 0))
        self._origin = 0.0
        self._typical = 0.0
        self._made = 0  # samples of the grid

    def push(self, times: Floats, values: Floats) -> Floats:
        """The samples (m, C) that those at `times` (n,), `values` (n, C), let know.

        Times are in seconds. Raises ValueError where they do not increase.
        """
        if len(self._times):
            times = np.concatenate([self._times, times])
            values = np.concatenate([self._values, values])
        steps = np.diff(times)
        if not (steps > 0).all() or not np.isfinite(times).all():
            raise ValueError("times do not increase")
        if len(times) < 2:
            self._times, self._values = times, values
            return np.empty((0, values.shape[1]))
        if not self._typical:
            self._typical, self._origin = float(np.median(steps)), float(times[0])
        made = self._interpolate(times, values, steps)
        self._times, self._values = times[-1:], values[-1:]
        return made

    def finish(self) -> Floats:
        """What is left of a series of one sample: it."""
        return self._values if not self._made else self._values[:0]

    def _interpolate(self, times: Floats, values: Floats, steps: Floats) -> Floats:
        edge = SNAP * self._typical * self._rate
        upto = int(np.floor((times[-1] - self._origin) * self._rate + edge)) + 1
        grid = self._origin + np.arange(self._made, upto) / self._rate
        self._made = max(self._made, upto)
        left = np.clip(np.searchsorted(times, grid, side="right") - 1, 0, len(steps) - 1)
        share = (grid - times[left]) / steps[left]
        share[np.abs(share) < SNAP] = 0
        share[np.abs(share - 1) < SNAP] = 1
        low, high, weight = values[left], values[left + 1], share[:, None]
        between = low + weight * (high - low)
        between[(steps[left] > GAP * self._typical) & (share > 0) & (share < 1)] = np.nan
        exact: Floats = np.where(weight == 0, low, np.where(weight == 1, high, between))
        return exact
