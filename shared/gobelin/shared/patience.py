"""Patience: how long to wait before looking again for what comes when it comes."""

from __future__ import annotations

SHARE = 0.125  # of the time waited: what comes is found at most so much later than it came


def pause(waited_s: float, least_s: float, most_s: float) -> float:
    """Seconds until the next look, after `waited_s` in vain: short at first, `most_s` at most.

    A look costs whoever is asked, so one who has waited long looks less often.
    """
    return min(max(SHARE * waited_s, least_s), most_s)
