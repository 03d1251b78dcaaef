"""A forecast of a round on this node: seconds, memory, bytes each way, disk; pure.

Each figure says where it is from: measured here, stated by somebody, or assumed.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from gobelin.client.rehearsal import Rehearsal
from gobelin.client.terms import Terms
from gobelin.shared.codec import CODECS, LOSSLESS, most_bytes
from gobelin.shared.fragments import fragment_of_round
from gobelin.shared.objective.moments import size_of
from gobelin.shared.vector import ParameterSchema

FP32 = 4  # bytes
CHECKPOINTS = 3  # that a home has place for, at least


@dataclass(frozen=True)
class Rate:
    """Of the way to the aggregator."""

    bytes_per_second: float
    source: str  # measured over the last contributions, by a probe, stated

    def __str__(self) -> str:
        """For an operator."""
        return f"{8e-6 * self.bytes_per_second:.3g} Mbit/s ({self.source})"


@dataclass(frozen=True)
class Traffic:
    """Bytes of one round, at most."""

    up: dict[str, int]  # the encoded delta by each codec
    moments: int
    down: int  # the whole base, or where the broadcast is lossy a step
    base: int  # the whole base, which a node that is new or was away is sent


@dataclass(frozen=True)
class Forecast:
    """One round."""

    steps: int  # H
    samples: int  # seen
    passes: float  # over this node's data
    tokens: int  # of whole samples; views and crops come on top, or are fewer
    train_s: float | None
    encode_s: float | None
    up_s: float | None
    down_s: float | None
    memory_mb: float | None
    accelerator_mb: float
    disk_bytes: int
    deadline_s: float
    codec: str
    traffic: Traffic
    notes: list[str] = field(default_factory=list)  # what is measured, what assumed

    @property
    def total_s(self) -> float | None:
        """All of it, one after another; None where a part is not known."""
        parts = (self.train_s, self.encode_s, self.up_s, self.down_s)
        known = [part for part in parts if part is not None]
        return sum(known) if len(known) == len(parts) else None

    def facts(self) -> dict[str, Any]:
        """As plain data."""
        return {**asdict(self), "total_s": self.total_s}


def traffic_of(terms: Terms, schema: ParameterSchema, modality: str) -> Traffic:
    """What a round of these terms sends and is sent, for a node of a modality ("" for the only)."""
    part = fragment_of_round(schema, terms.fragments, 1).part(modality).schema
    whole = FP32 * schema.size
    moments = size_of(terms.recipe.projector.out) if terms.cross_node else 0
    step = most_bytes(terms.broadcast, fragment_of_round(schema, terms.fragments, 1).schema)
    down = whole if terms.broadcast == LOSSLESS else min(whole, step)
    up: dict[str, int] = {codec: most_bytes(codec, part) for codec in CODECS}
    return Traffic(up, moments, down, whole)


def disk_bytes(terms: Terms, traffic: Traffic, parameters: int) -> int:
    """Of a node's home, for CHECKPOINTS rounds in the spool and the base it keeps.

    A round's folder holds the encoded delta, AdamW's two moments and what is owed.
    """
    owed = 0 if terms.codec == LOSSLESS else 2 * FP32 * parameters
    own = FP32 * parameters if terms.fragments > 1 else 0
    base = FP32 * parameters if terms.broadcast != LOSSLESS else 0
    return CHECKPOINTS * (traffic.up[terms.codec] + 2 * FP32 * parameters + owed + own) + base


def forecast(
    terms: Terms,
    schema: ParameterSchema,
    modality: str,
    codec: str,
    rehearsal: Rehearsal | None,
    rate: Rate | None,
) -> Forecast:
    """What a round will take; `codec` is the one this node will encode by."""
    traffic = traffic_of(terms, schema, modality)
    sent = traffic.up[codec] + traffic.moments
    steps = terms.local_steps
    batch = terms.recipe.inner.batch_size if rehearsal is None else rehearsal.batch_size
    seen = steps * batch
    notes = [f"terms: {terms.source}"]
    if rehearsal is None:
        notes.append("not measured: training, for no step was trained")
    else:
        warm = "after one to warm up" if rehearsal.warm else "the first, which also warms up"
        notes += [
            f"measured: {rehearsal.step_s:.3g} s a step, the median of {rehearsal.steps}, {warm}",
            f"measured: {rehearsal.memory_mb:,.0f} MB at most in this process, of these steps",
            "assumed: every step of a round takes as long, and nothing else uses the machine",
        ]
    if rate is None:
        notes.append("not known: the way to the aggregator (state it by --mbit)")
    else:
        notes += [f"upload: {rate}", "assumed: bytes come as fast as they go"]
    return Forecast(
        steps=steps,
        samples=seen,
        passes=seen / rehearsal.samples if rehearsal and rehearsal.samples else 0.0,
        tokens=seen * rehearsal.tokens if rehearsal else 0,
        train_s=rehearsal.step_s * steps if rehearsal else None,
        encode_s=rehearsal.encode_s if rehearsal else None,
        up_s=sent / rate.bytes_per_second if rate else None,
        down_s=traffic.down / rate.bytes_per_second if rate else None,
        memory_mb=rehearsal.memory_mb if rehearsal else None,
        accelerator_mb=rehearsal.accelerator_mb if rehearsal else 0.0,
        disk_bytes=disk_bytes(terms, traffic, schema.size),
        deadline_s=terms.deadline_s,
        codec=codec,
        traffic=traffic,
        notes=notes,
    )
