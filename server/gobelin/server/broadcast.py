"""The broadcast: the consensus as nodes rebuild it, and what of it a node must be sent.

Where the broadcast's codec loses something, the consensus is not what the outer optimizer wants
but what nodes are told of it: c = (wanted − base) + β·owed, q = Q(c), consensus = base + q,
owed ← c − q. The aggregator's error feedback is that of a node, so what a round leaves out a later
one says, and all nodes and the aggregator have the same bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from gobelin.shared.codec import LOSSLESS, Payload, compress
from gobelin.shared.fragments import Fragment
from gobelin.shared.vector import ParameterVector

STEP = "broadcast"  # a sealed round's step: its name among the facts and among the extras


@dataclass(frozen=True)
class Broadcast:
    """A consensus and how it is told."""

    consensus: ParameterVector
    payload: Payload | None = None  # the step from the base; None: it is told whole
    owed: Tensor | None = None  # (P,)
    distortion: float = 0.0  # ‖c − q‖² / ‖c‖²

    @property
    def facts(self) -> dict[str, Any]:
        """What is recorded of the step; nothing where the consensus is told whole."""
        if self.payload is None:
            return {}
        size, lost = self.payload.size, self.distortion
        return {STEP: {"codec": self.payload.codec, "bytes": size, "distortion": lost}}


def broadcast(
    codec: str, base: ParameterVector, wanted: ParameterVector, owed: Tensor | None
) -> Broadcast:
    """The consensus after a round in which the outer optimizer went from `base` to `wanted`.

    With the lossless codec it is `wanted` itself, and what an earlier codec left owed.
    """
    if codec == LOSSLESS:
        paid = wanted if owed is None else ParameterVector(base.schema, wanted.values + owed)
        return Broadcast(paid)
    made = compress(codec, wanted - base, owed)
    consensus = base + made.payload.decode()
    return Broadcast(consensus, made.payload, made.residual, made.distortion)


def broadcast_fragment(
    codec: str,
    fragment: Fragment,
    base: ParameterVector,
    wanted: ParameterVector,
    owed: Tensor | None,
) -> Broadcast:
    """The same where a round moves one fragment: its step alone is told, the others' debts wait."""
    due = None if owed is None else fragment.take(owed)
    told = broadcast(codec, fragment.of(base), fragment.of(wanted), due)
    values = fragment.put(base.values, told.consensus.values)
    return replace(
        told,
        consensus=ParameterVector(base.schema, values),
        owed=fragment.owe(owed, told.owed),
    )


def rounds_to_send(
    has: int | None, last: int, sizes: Mapping[int, int], whole: int
) -> list[int] | None:
    """The rounds whose steps lead a node to the base that round `last` sealed; None: send it whole.

    `has` is the round that sealed the base the node has, `sizes` the bytes of the steps there are,
    `whole` those of a whole base. Steps are sent where all are there and together are less.
    """
    if has is None or has > last:
        return None
    rounds = list(range(has + 1, last + 1))
    if any(number not in sizes for number in rounds):
        return None
    return rounds if sum(sizes[number] for number in rounds) < whole else None
