"""Steps: how the consensus travels to nodes that have an earlier base.

Where the broadcast's codec loses something, the consensus is defined as what was broadcast: a base
plus its decoded step, added element by element in fp32. So whoever has a base reaches the later
ones to the bit by their steps alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gobelin.protocols.messages import Step
from gobelin.shared.codec import Payload
from gobelin.shared.errors import NamesError
from gobelin.shared.fragments import fragment_of_round
from gobelin.shared.vector import ParameterVector


@dataclass(frozen=True)
class CodedStep:
    """A step and its encoded segments, by the names the schema gives them."""

    header: Step
    segments: Mapping[str, bytes]

    @property
    def size(self) -> int:
        """Bytes of all segments."""
        return sum(map(len, self.segments.values()))


def follow(
    base: ParameterVector, steps: Sequence[CodedStep], fragments: int = 1
) -> ParameterVector:
    """The base that `steps` lead to from `base`, each that of its round's fragment.

    Raises CodecError or VectorError on damage.
    """
    for step in steps:
        fragment = fragment_of_round(base.schema, fragments, step.header.round)
        if set(step.segments) != set(fragment.schema.segments):
            raise NamesError("a step has other segments than the schema", "use the same recipe")
        moved = Payload(fragment.schema, step.header.codec, step.segments).decode()
        values = fragment.put(base.values, moved.values.add_(fragment.take(base.values)))
        base = ParameterVector(base.schema, values)
    return base
