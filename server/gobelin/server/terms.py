"""The terms of a federation's rounds, from its settings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

from gobelin.server.home import FederationSettings
from gobelin.server.round_state import Terms

REJOIN_S = 30.0  # for nodes to find a killed aggregator again: twice their longest pause


def terms_of(settings: FederationSettings, scores: Sequence[float] = ()) -> Terms:
    """What bounds a round; `scores` are members' in past rounds."""
    rounds = settings.rounds
    return Terms(
        quorum=Fraction(repr(rounds.quorum)),  # as it was written: 0.1 is a tenth
        min_members=rounds.min_members,
        deadline_s=rounds.deadline_s,
        grace_s=math.inf if rounds.grace_s is None else rounds.grace_s,
        wait_s=rounds.wait_for_members_s,
        attempts=rounds.attempts,
        rejoin_s=REJOIN_S,
        max_staleness=rounds.max_staleness,
        quality_floor=settings.policy.quality_floor,
        history=scores,
    )
