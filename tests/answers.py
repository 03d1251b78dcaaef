"""Honest answers to a plan, as they come off the wire: what the fake couriers of tests deliver."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gobelin.protocols.bundle import WireArray
from gobelin.protocols.envelope import CONTRIBUTION, SignedEnvelope
from gobelin.protocols.messages import ENCODING, Contribution, RoundPlan
from gobelin.shared.envelope import NEVER, seal
from gobelin.shared.signing import SigningKey
from gobelin.shared.vector import DTYPE


def contribution(plan: RoundPlan, delta_digest: str, **more: Any) -> Contribution:
    """The header of an fp32 delta for a plan; `more` replaces what is said of the training."""
    said = {"local_steps": plan.local_steps, "samples": 8, "seconds": 0.5, **more}
    return Contribution(
        federation=plan.federation,
        round=plan.round,
        plan_digest=plan.digest,
        base_digest=plan.base_digest,
        delta_digest=delta_digest,
        **said,
    )


def signed(
    made: Contribution, key: SigningKey, member: str, node: str, expires: int = NEVER
) -> SignedEnvelope:
    """The envelope of a contribution, by whoever holds `key`."""
    return seal(key, CONTRIBUTION, made, member=member, node=node, issued=1, expires=expires)


def wired(segments: Mapping[str, bytes]) -> dict[str, WireArray]:
    """fp32 segments as arrays on the wire."""
    return {
        name: WireArray(DTYPE, (len(data) // 4,), ENCODING, data) for name, data in segments.items()
    }
