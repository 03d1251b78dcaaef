"""The spool: finished contributions and the state behind them, on disk.

A contribution is here, whole, before it is announced. It stays until two later rounds have been
trained, so the aggregator can ask for it again after any crash, on either side. In the same
folder lies what the next round starts from: the inner optimizer's state, the debt of error
feedback before and after it (a receipt says which of the two holds, see codec/feedback.py), the
moments of the round's base, and the node's own model where rounds exchange fragments.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from gobelin.client.privacy.accounting import Spend
from gobelin.client.spool_entry import (
    HEADER,
    MOMENTS,
    RECEIPT,
    Entry,
    damaged,
    folder_of,
    read_entry,
    rounds_in,
)
from gobelin.protocols.envelope import UNSIGNED, SignedEnvelope
from gobelin.protocols.messages import (
    LATE,
    PENDING,
    Contribution,
    Receipt,
)
from gobelin.shared.checkpoint import load_tensors
from gobelin.shared.codec import Payload, segments_of
from gobelin.shared.errors import MomentsError, StateError
from gobelin.shared.files import (
    PRIVATE,
    folder_atomic,
    link_or_copy,
    read_json,
    remove_folder,
    write_atomic,
    write_json,
)
from gobelin.shared.objective import Moments
from gobelin.shared.objective.moments import digest_of
from gobelin.shared.vector import ParameterSchema, ParameterVector

KEEP = 2  # rounds
ENVELOPE = "envelope.json"  # of the contribution, signed; sent as it lies here
DELTA = "delta.safetensors"  # its encoded segments, byte for byte as they are sent
INNER = "inner.safetensors"
LOCAL = "local.safetensors"  # only where rounds exchange fragments
DEBT = "debt.safetensors"  # only where something is owed
DEBT_BEFORE = "before.safetensors"  # the same of what was owed before: of the last round, one file
SALT = "salt.bin"  # only where the round is sealed; blinds the digest of its delta
SPEND = "privacy.json"  # only where it was trained with differential privacy

AFTER = "after"  # in DEBT: what is owed once the contribution has counted; in DEBT_BEFORE: before
TRUSTED = "trusted"  # what comes back if the contribution before it proves not to have counted


@dataclass(frozen=True)
class Spooled:
    """A finished contribution, the encoded delta and the moments that go with it."""

    contribution: Contribution
    payload: Payload
    moments: bytes = b""  # canonical; none where none were asked for, or the node declined
    envelope: SignedEnvelope = UNSIGNED
    spend: Spend | None = None  # of privacy, by the steps behind it; None: it was not private

    @property
    def delta(self) -> ParameterVector:
        """The delta as the aggregator will decode it."""
        return self.payload.decode()


@dataclass(frozen=True)
class Debt:
    """What a contribution is made with; None is nothing."""

    owed: Tensor | None = None  # (P,)
    trusted: Tensor | None = None  # (P,) wrong in `owed` if the last contribution does not count
    file: Path | None = None  # whose AFTER `owed` is, where it is one's


NO_DEBT = Debt()


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
        debt: Debt = NO_DEBT,
        moments: Moments | None = None,
        local: Tensor | None = None,
        salt: bytes = b"",
        envelope: SignedEnvelope = UNSIGNED,
        spend: Spend | None = None,
    ) -> None:
        """Keep a contribution, the debt it was made with and the state after it.

        Older ones are dropped. `salt` is what its delta's digest is blinded with, if it is.
        """
        tensors = {AFTER: residual, TRUSTED: debt.trusted}
        owed = {name: tensor for name, tensor in tensors.items() if tensor is not None}
        with folder_atomic(self._round(contribution.round)) as tmp:
            write_atomic(tmp / HEADER, contribution.to_bytes())
            write_json(tmp / ENVELOPE, _facts(envelope))
            save_file(payload.tensors(), tmp / DELTA)
            save_file(dict(inner), tmp / INNER)
            if owed:
                save_file(owed, tmp / DEBT)
            if debt.file is not None:
                link_or_copy(debt.file, tmp / DEBT_BEFORE)
            elif debt.owed is not None:
                save_file({AFTER: debt.owed}, tmp / DEBT_BEFORE)
            if moments is not None:
                write_atomic(tmp / MOMENTS, moments.to_bytes())
            if local is not None:
                save_file({"local": local}, tmp / LOCAL)
            if salt:
                write_atomic(tmp / SALT, salt, PRIVATE)
            if spend is not None:
                write_json(tmp / SPEND, spend.facts())
        # Later rounds are of a course that the federation has left, going back to an earlier base.
        abandoned = [number for number in self.rounds() if number > contribution.round]
        kept = [number for number in self.rounds() if number <= contribution.round]
        for number in abandoned + kept[:-KEEP]:
            remove_folder(self._round(number))

    def leave(self, course: Container[int], before: int) -> list[int]:
        """Drop what was trained in rounds before `before` that are off the federation's course.

        What is left is the state as of the last round on it: the inner optimizer's, the debts', and
        this node's own model. Returns the numbers of those that are gone.
        """
        gone = [number for number in self.rounds() if number < before and number not in course]
        for number in gone:
            remove_folder(self._round(number))
        return gone

    def find(self, plan_digest: str, round_number: int, schema: ParameterSchema) -> Spooled | None:
        """The finished contribution for a plan, or None; raises StateError on damage."""
        if round_number not in self.rounds():
            return None
        contribution = self.entry(round_number).contribution
        if contribution.plan_digest != plan_digest:
            return None
        segments = segments_of(self._load(round_number, DELTA))
        payload = Payload(schema, contribution.codec, segments)
        salt = self._file(round_number, SALT)
        if blinded(payload.digest, salt) != contribution.delta_digest:
            raise damaged(self._round(round_number))
        moments = self.sent_moments(round_number)
        spend = self.spend_of(round_number, contribution.digest)
        return Spooled(contribution, payload, moments, self._envelope(round_number), spend)

    def spend_of(self, round_number: int, digest: str) -> Spend | None:
        """What a contribution spent; None where it was not private, or is not here.

        Raises StateError on damage.
        """
        file = self._round(round_number) / SPEND
        if not file.exists() or self.entry(round_number).contribution.digest != digest:
            return None
        try:
            return Spend(**read_json(file))
        except TypeError:
            raise damaged(self._round(round_number)) from None

    def bare(self) -> list[int]:
        """Rounds here that were trained without privacy."""
        return [number for number in self.rounds() if not (self._round(number) / SPEND).exists()]

    def renew(self, round_number: int, envelope: SignedEnvelope) -> None:
        """Keep another envelope of a finished contribution: the one it has holds no longer."""
        write_json(self._round(round_number) / ENVELOPE, _facts(envelope))

    def _envelope(self, number: int) -> SignedEnvelope:
        file = self._round(number) / ENVELOPE
        if not file.exists():  # of a version that signed nothing
            return UNSIGNED
        try:
            facts = read_json(file)
            return SignedEnvelope(facts["envelope"].encode(), facts["signature"])
        except (StateError, KeyError, AttributeError):
            raise damaged(self._round(number)) from None

    def sent_moments(self, round_number: int) -> bytes:
        """The moments that go with a round's contribution, if any; raises StateError on damage."""
        digest = self.entry(round_number).contribution.moments_digest
        if not digest:
            return b""
        data = self._file(round_number, MOMENTS)
        if digest_of(data) != digest:
            raise damaged(self._round(round_number))
        return data

    def moments_of(self, round_number: int, dim: int) -> Moments | None:
        """The moments of a round's base, of D = `dim`, sent or not; raises StateError on damage."""
        data = self._file(round_number, MOMENTS)
        try:
            return Moments.from_bytes(data, dim) if data else None
        except MomentsError:
            raise damaged(self._round(round_number)) from None

    def last_before(self, round_number: int) -> int:
        """Number of the last round before `round_number`; 0 if none."""
        return max((number for number in self.rounds() if number < round_number), default=0)

    def inner_after(self, number: int) -> dict[str, Tensor]:
        """The inner optimizer's state after a round; {} after round 0. StateError on damage."""
        return self._load(number, INNER) if number else {}

    def debt_before(self, round_number: int) -> Debt:
        """What the next contribution is to be made with, by what is known of the last two."""
        last = self.last_before(round_number)
        if not last:
            return NO_DEBT
        debts, counted = self._load_if_there(last, DEBT), self.entry(last).counted
        after = debts.get(AFTER)
        before = self._load_if_there(last, DEBT_BEFORE).get(AFTER)
        name, owed = (DEBT_BEFORE, before) if counted is False else (DEBT, after)
        file = None if owed is None else self._round(last) / name
        earlier = self.last_before(last)
        if earlier and self.entry(earlier).counted is False and TRUSTED in debts:
            owed, file = _sum(owed, debts[TRUSTED]), None
        if counted is not None:
            return Debt(owed, file=file)
        return Debt(owed, _sum(before, None if after is None else -after), file)

    def settle(self, federation: str, before: int, receipts: Iterable[Receipt]) -> list[Entry]:
        """Keep what became of the contributions to rounds before `before`; returns what is new.

        `receipts` are all that the federation can say of the last ones: what they leave out had
        not arrived when its round was sealed.
        """
        told = {receipt.round: receipt for receipt in receipts}
        news = []
        for number in self.rounds():
            entry = self.entry(number)
            made = entry.contribution
            receipt = told.get(number, entry.receipt) or _late(made)
            if number >= before or made.federation != federation or receipt.reason == PENDING:
                continue
            if receipt != entry.receipt:
                write_atomic(self._round(number) / RECEIPT, receipt.to_bytes())
                news.append(Entry(made, receipt))
        return news

    def entry(self, number: int) -> Entry:
        """What is known of a round's contribution; raises StateError on damage."""
        return read_entry(self._folder, number)

    def _file(self, number: int, name: str) -> bytes:
        file = self._round(number) / name
        return file.read_bytes() if file.exists() else b""

    def local_before(self, round_number: int) -> tuple[int, Tensor] | None:
        """Number and trained values (P,) of the last round before `round_number`, if kept."""
        before = self.last_before(round_number)
        if not (self._round(before) / LOCAL).exists():
            return None
        return before, self._load(before, LOCAL)["local"]

    def _load(self, number: int, name: str) -> dict[str, Tensor]:
        try:
            return load_tensors(self._round(number) / name)
        except (SafetensorError, OSError):
            raise damaged(self._round(number)) from None

    def _load_if_there(self, number: int, name: str) -> dict[str, Tensor]:
        return self._load(number, name) if (self._round(number) / name).exists() else {}

    def rounds(self) -> list[int]:
        """Numbers of the rounds in the spool, ascending."""
        return rounds_in(self._folder)

    def _round(self, number: int) -> Path:
        return folder_of(self._folder, number)


def blinded(digest: str, salt: bytes) -> str:
    """What is told of a delta's digest: it itself, or with a salt what gives nothing away."""
    return sha256(salt + digest.encode()).hexdigest() if salt else digest


def _facts(envelope: SignedEnvelope) -> dict[str, str]:
    return {"envelope": envelope.data.decode(), "signature": envelope.signature}


def _late(made: Contribution) -> Receipt:
    """What is to be concluded of a contribution that the aggregator says nothing of."""
    return Receipt(made.federation, made.round, "", False, LATE, 0.0)


def _sum(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    """one + other, None being nothing."""
    if one is None or other is None:
        return one if other is None else other
    return one + other
