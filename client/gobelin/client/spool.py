"""The spool: finished contributions and the state behind them, on disk.

A contribution is here, whole, before it is announced. It stays until two later rounds have been
trained, so the aggregator can ask for it again after any crash, on either side. In the same
folder lies what the next round starts from: the inner optimizer's state, the residual that the
codec still owes, the moments of the round's base, and the node's own model where rounds exchange
fragments.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from gobelin.protocols.messages import Contribution, MalformedMessageError
from gobelin.shared.codec import Payload
from gobelin.shared.errors import MomentsError, StateError
from gobelin.shared.files import folder_atomic, write_atomic
from gobelin.shared.objective import Moments
from gobelin.shared.objective.moments import digest_of
from gobelin.shared.vector import ParameterSchema, ParameterVector

KEEP = 2  # rounds
HEADER = "contribution.json"
DELTA = "delta.safetensors"  # its encoded segments, byte for byte as they are sent
INNER = "inner.safetensors"
RESIDUAL = "residual.safetensors"  # only where the codec lost something
MOMENTS = "moments.bin"  # only where a round tests across nodes; sent if the contribution says so
LOCAL = "local.safetensors"  # only where rounds exchange fragments


@dataclass(frozen=True)
class Spooled:
    """A finished contribution, the encoded delta and the moments that go with it."""

    contribution: Contribution
    payload: Payload
    moments: bytes = b""  # canonical; none where none were asked for, or the node declined

    @property
    def delta(self) -> ParameterVector:
        """The delta as the aggregator will decode it."""
        return self.payload.decode()


class Spool:
    """One folder a round under `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put(
        self,
        contribution: Contribution,
        payload: Payload,
        inner: Mapping[str, Tensor],
        residual: Tensor | None = None,
        moments: Moments | None = None,
        local: Tensor | None = None,
    ) -> None:
        """Keep a contribution and the state after it; older ones are dropped."""
        with folder_atomic(self._round(contribution.round)) as tmp:
            write_atomic(tmp / HEADER, contribution.to_bytes())
            save_file({k: _tensor(d) for k, d in payload.segments.items()}, tmp / DELTA)
            save_file(dict(inner), tmp / INNER)
            if residual is not None:
                save_file({"residual": residual}, tmp / RESIDUAL)
            if moments is not None:
                write_atomic(tmp / MOMENTS, moments.to_bytes())
            if local is not None:
                save_file({"local": local}, tmp / LOCAL)
        # Later rounds are of a course that the federation has left, going back to an earlier base.
        abandoned = [number for number in self.rounds() if number > contribution.round]
        kept = [number for number in self.rounds() if number <= contribution.round]
        for number in abandoned + kept[:-KEEP]:
            shutil.rmtree(self._round(number))

    def find(self, plan_digest: str, round_number: int, schema: ParameterSchema) -> Spooled | None:
        """The finished contribution for a plan, or None; raises StateError on damage."""
        contribution = self._header(round_number)
        if contribution is None or contribution.plan_digest != plan_digest:
            return None
        tensors = self._load(round_number, DELTA)
        segments = {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}
        payload = Payload(schema, contribution.codec, segments)
        if payload.digest != contribution.delta_digest:
            raise _damaged(self._round(round_number))
        return Spooled(contribution, payload, self.sent_moments(round_number))

    def sent_moments(self, round_number: int) -> bytes:
        """The moments that go with a round's contribution, if any; raises StateError on damage."""
        contribution = self._header(round_number)
        if contribution is None or not contribution.moments_digest:
            return b""
        data = self._moments(round_number)
        if digest_of(data) != contribution.moments_digest:
            raise _damaged(self._round(round_number))
        return data

    def moments_of(self, round_number: int, dim: int) -> Moments | None:
        """The moments of a round's base, of D = `dim`, sent or not; raises StateError on damage."""
        data = self._moments(round_number)
        try:
            return Moments.from_bytes(data, dim) if data else None
        except MomentsError:
            raise _damaged(self._round(round_number)) from None

    def inner_before(self, round_number: int) -> tuple[int, dict[str, Tensor]]:
        """Number and inner state of the last round before `round_number`; 0 and {} if none."""
        before = self._before(round_number)
        return before, self._load(before, INNER) if before else {}

    def residual_before(self, round_number: int) -> Tensor | None:
        """What the last round before `round_number` left owed (P,), or None for nothing."""
        before = self._before(round_number)
        if not (self._round(before) / RESIDUAL).exists():
            return None
        return self._load(before, RESIDUAL)["residual"]

    def _header(self, number: int) -> Contribution | None:
        file = self._round(number) / HEADER
        if not file.exists():
            return None
        try:
            return Contribution.from_bytes(file.read_bytes())
        except (MalformedMessageError, OSError):
            raise _damaged(self._round(number)) from None

    def _moments(self, number: int) -> bytes:
        file = self._round(number) / MOMENTS
        return file.read_bytes() if file.exists() else b""

    def local_before(self, round_number: int) -> tuple[int, Tensor] | None:
        """Number and trained values (P,) of the last round before `round_number`, if kept."""
        before = self._before(round_number)
        if not (self._round(before) / LOCAL).exists():
            return None
        return before, self._load(before, LOCAL)["local"]

    def _before(self, round_number: int) -> int:
        """Number of the last round before `round_number`, or 0."""
        return max((number for number in self.rounds() if number < round_number), default=0)

    def _load(self, number: int, name: str) -> dict[str, Tensor]:
        try:
            tensors: dict[str, Tensor] = load_file(self._round(number) / name)
        except (SafetensorError, OSError):
            raise _damaged(self._round(number)) from None
        return tensors

    def rounds(self) -> list[int]:
        """Numbers of the rounds in the spool, ascending."""
        folders = self._folder.glob("round-[0-9]*") if self._folder.exists() else []
        return sorted(int(folder.name.removeprefix("round-")) for folder in folders)

    def _round(self, number: int) -> Path:
        return self._folder / f"round-{number:05d}"


def _damaged(folder: Path) -> StateError:
    return StateError(f"{folder} is damaged", "remove it; the round is trained again")


def _tensor(data: bytes) -> Tensor:
    """Bytes as a uint8 tensor (len(data),)."""
    return torch.from_numpy(np.frombuffer(data, np.uint8).copy())
