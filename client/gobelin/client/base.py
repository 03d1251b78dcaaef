"""The last base a node had, kept on disk, so that it need be sent only what has moved since."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gobelin.shared.errors import BaseMissingError, CodecError, VectorError
from gobelin.shared.files import write_atomic
from gobelin.shared.step import CodedStep, follow
from gobelin.shared.vector import ParameterSchema, ParameterVector, tensor_of_bytes


class KeptBase:
    """One file of canonical bytes; whatever it holds is believed by its digest alone.

    So it is not flushed: what a power cut takes is sent again. The vector stays in memory, too,
    for the next round goes on from it.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._held: ParameterVector | None = None  # what the file is known to hold

    def keep(self, base: ParameterVector) -> None:
        """Keep `base` in place of the one before."""
        known = self._held is not None and self._held.digest == base.digest
        if not known or not self._file.exists():
            write_atomic(self._file, base.canonical_bytes, flush=False)
        self._held = base

    def reach(
        self,
        schema: ParameterSchema,
        steps: Sequence[CodedStep],
        digest: str,
        fragments: int = 1,
    ) -> ParameterVector:
        """The base of a digest: the kept one, moved by those of `steps` that go on from it.

        Each step is that of the fragment, of so many, that its round exchanged.

        Raises BaseMissingError when the kept one is neither it nor where one of the steps starts,
        and when the steps lead elsewhere.
        """
        kept = self._load(schema)
        if kept is not None and kept.digest == digest:
            return kept
        starts = [step.header.start_digest for step in steps]
        if kept is None or kept.digest not in starts:
            raise _missing("this node has no base that the steps go on from")
        try:
            base = follow(kept, steps[starts.index(kept.digest) :], fragments)
        except (CodecError, VectorError) as error:
            raise _missing(f"a step is damaged: {error.what}") from None
        if base.digest != digest:
            raise _missing("the steps do not lead to the plan's base")
        return base

    def _load(self, schema: ParameterSchema) -> ParameterVector | None:
        if self._held is not None and self._held.schema.digest == schema.digest:
            return self._held
        try:
            self._held = ParameterVector(schema, tensor_of_bytes(self._file.read_bytes()))
        except (OSError, ValueError, VectorError):  # none yet, torn, or of another model
            self._held = None
        return self._held


def _missing(what: str) -> BaseMissingError:
    return BaseMissingError(what, "the aggregator sends the whole base at once")
