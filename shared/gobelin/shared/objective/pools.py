"""Pools: what a round's moments come to, one pool a modality.

One pool for all modalities would be Gaussian, too, where each of them keeps to a part of the space.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from gobelin.shared.errors import MomentsError
from gobelin.shared.objective.moments import Moments, digest_of, size_of

ABSENT, PRESENT = b"\x00", b"\x01"  # of a modality with too few members for a pool


@dataclass(frozen=True, eq=False)
class Pools:
    """Pooled moments by modality, as members tell it; `modalities` are all that they may tell."""

    modalities: Collection[str]
    pooled: Mapping[str, Moments]  # of those that have a pool; not empty

    def to_bytes(self) -> bytes:
        """Canonical bytes: the moments' own where there is one modality.

        Else a byte for each modality, in order of their names: 0, or 1 and its moments.
        """
        if len(self.modalities) < 2:
            return b"".join(own.to_bytes() for own in self.pooled.values())
        return b"".join(
            PRESENT + self.pooled[name].to_bytes() if name in self.pooled else ABSENT
            for name in sorted(self.modalities)
        )

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical bytes."""
        return digest_of(self.to_bytes())

    @classmethod
    def from_bytes(cls, data: bytes, dim: int, modalities: Collection[str]) -> Pools:
        """Parse canonical bytes of moments of D = `dim`; raises MomentsError on anything else."""
        if len(modalities) < 2:
            return cls(modalities, {name: Moments.from_bytes(data, dim) for name in modalities})
        pools = cls(modalities, dict(_parse(data, dim, modalities)))
        if not pools.pooled or pools.to_bytes() != data:
            raise MomentsError(f"{len(data)} bytes are no pools of {len(modalities)} modalities")
        return pools


def _parse(data: bytes, dim: int, modalities: Collection[str]) -> Iterator[tuple[str, Moments]]:
    at = 0
    for name in sorted(modalities):
        mark, at = data[at : at + 1], at + 1
        if mark == PRESENT:
            yield name, Moments.from_bytes(data[at : at + size_of(dim)], dim)
            at += size_of(dim)
