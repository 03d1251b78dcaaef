"""The row of a contribution: what a round records of it, and the ledger proves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gobelin.protocols.messages import Contribution
from gobelin.server.round_events import Seat


def row_of(
    node: str,
    seat: Seat,
    made: Contribution,
    norm: float | None,
    payload_bytes: int,
    measured: Mapping[str, float],
    staleness: int,
) -> dict[str, Any]:
    """`measured` is the aggregator's, `metrics` the node's word; a masked delta has no norm."""
    return {
        "member": seat.member,
        "node": seat.name,
        "id": node,
        "staleness": staleness,  # rounds
        "plan_digest": made.plan_digest,
        "base_digest": made.base_digest,
        "delta_digest": made.delta_digest,
        "delta_norm": norm,
        "modality": made.modality,
        "codec": made.codec,
        "bytes": payload_bytes,
        "moments_digest": made.moments_digest,
        "local_steps": made.local_steps,
        "samples": made.samples,
        "seconds": made.seconds,
        "measured": dict(measured),
        "metrics": dict(made.metrics),
    }
