"""The aggregator's shell of a sealed round: takes its nodes through the phases to their sum.

The phases come when local steps are done and spooled, so a slow node holds up nobody's masks and
few drop out between them. A node that is silent in a phase has dropped out of the sum; whoever has
sent its masked delta is in it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from torch import Tensor

from gobelin.protocols.messages import MalformedMessageError, RoundPlan
from gobelin.protocols.sealing import (
    AGREE,
    ENCODING_MASKED,
    KEYS,
    MASK,
    MASKED,
    REVEAL,
    SHARES,
    SealedAnswer,
    SealedCall,
    SealedSession,
)
from gobelin.server.courier import Courier, Parcel, Reply
from gobelin.server.home import AggregatorHome
from gobelin.server.limits import SMALL, Limit, limit_of
from gobelin.server.roster import NodeEntry
from gobelin.server.sealed_files import Fixed, SealedFiles
from gobelin.shared.codec import LOSSLESS
from gobelin.shared.errors import GobelinError, SealingError
from gobelin.shared.sealing import (
    Ring,
    add_masks,
    masked_digest,
    survivors_digest,
    threshold_of,
    unmasking,
)
from gobelin.shared.sealing.peer import SESSION
from gobelin.shared.sealing.tally import parse_answer
from gobelin.shared.signing import SigningKey
from gobelin.shared.vector import ParameterSchema

POLL_S = 0.2
LOOK_EVERY_S = 1.0
T = TypeVar("T")


@dataclass(frozen=True)
class Patience:
    """How long a phase waits, in seconds."""

    offline_s: float  # for a node that is offline
    phase_s: float  # for any node
    reveal_s: float  # for enough nodes to reveal: without them the round is lost


@dataclass(frozen=True)
class Opened:
    """What a sealed round comes to: whose deltas are in the mean, and the mean, (P,) fp32."""

    survivors: Sequence[str]
    mean: Tensor


class TooFew(Exception):
    """A phase that fewer nodes than needed have answered; the text is for an operator."""


class _Gathering(Generic[T]):
    """One phase's calls, and what has come of them."""

    def __init__(
        self, courier: Courier, calls: Mapping[str, SealedCall], limit: Limit, now: float
    ) -> None:
        self._courier = courier
        self._limit = limit
        self._looked = -math.inf
        self._seen = dict.fromkeys(calls, now)  # when each was last online
        self.calls = calls
        self.asked: dict[str, str] = {}  # since when each was online when it was asked
        self.taken: dict[str, T] = {}
        self.failed: set[str] = set()

    @property
    def owing(self) -> set[str]:
        """Nodes that may still answer."""
        return set(self.calls) - set(self.taken) - self.failed

    def look(self, now: float) -> None:
        """Ask those who are online and have not been asked since they came."""
        if now < self._looked + LOOK_EVERY_S:
            return
        self._looked = now
        online = {state.id: state.activated_at for state in self._courier.nodes() if state.online}
        here = sorted(self.owing & set(online))
        self._seen.update(dict.fromkeys(here, now))
        new = [node for node in here if self.asked.get(node) != online[node]]
        self._courier.send(Parcel(node, self.calls[node], None, limit=self._limit) for node in new)
        self.asked.update({node: online[node] for node in new})

    def all_gone(self, since: float) -> bool:
        """Whether nobody who owes an answer has been online since a time."""
        return all(self._seen[node] < since for node in self.owing)


class Exchange:
    """One round's phases."""

    def __init__(
        self,
        courier: Courier,
        files: SealedFiles,
        key: SigningKey,
        patience: Patience,
        clock: Callable[[], float],
        sleep: Callable[[float], None],
        tell: Callable[[str, Mapping[str, object]], None],
    ) -> None:
        self._courier = courier
        self._files = files
        self._key = key
        self._patience = patience
        self._clock = clock
        self._sleep = sleep
        self._tell = tell

    @classmethod
    def of(
        cls,
        home: AggregatorHome,
        courier: Courier,
        clock: Callable[[], float],
        sleep: Callable[[float], None],
        tell: Callable[[str, Mapping[str, object]], None],
    ) -> Exchange:
        """The one of an aggregator's open round.

        A phase may take as long as a round's local steps: masked deltas are as large as others.
        """
        rounds = home.settings().rounds
        patience = Patience(rounds.sealed_offline_s, rounds.deadline_s, rounds.wait_for_members_s)
        key = SigningKey.load(home.signing_key_file)
        files = SealedFiles(home.journal / "sealed")
        return cls(courier, files, key, patience, clock, sleep, tell)

    def run(
        self, plan: RoundPlan, schema: ParameterSchema, nodes: Mapping[str, NodeEntry]
    ) -> Opened:
        """The mean of the deltas of `nodes`, by id, as far as they do not drop out.

        Raises TooFew when the round is to be tried again, SealingError when too few reveal what
        they have agreed to, GarbledSumError when the sum is none; then no second try is safe.
        """
        fixed = self._files.fixed()
        if fixed is None or _session(fixed.session).plan_digest != plan.digest:
            fixed = self._until_survivors(plan, schema, nodes)
            self._files.fix(fixed)
        session = _session(fixed.session)
        if not fixed.signed:  # a reveal is asked for in one way only
            fixed = replace(fixed, signed=self._agree(session, fixed))
            self._files.fix(fixed)
        adverts = {
            node: parse_answer(session, KEYS, node, text) for node, text in fixed.adverts.items()
        }
        reveals = self._reveal(session, fixed)
        total = self._files.total(fixed.survivors, schema.size)
        add_masks(total, unmasking(session, adverts, fixed.masked, fixed.survivors, reveals))
        ring = Ring(plan.sealed_bits, plan.sealed_bound)
        return Opened(fixed.survivors, ring.mean(total, len(fixed.survivors)))

    def _until_survivors(
        self, plan: RoundPlan, schema: ParameterSchema, nodes: Mapping[str, NodeEntry]
    ) -> Fixed:
        """Keys, shares and masked deltas of a new session; raises TooFew."""
        session = SealedSession(
            federation=plan.federation,
            round=plan.round,
            session=self._files.next_number(),
            plan_digest=plan.digest,
            base_digest=plan.base_digest,
            threshold=threshold_of(plan.sealed_threshold, len(nodes)),
            keys={node: entry.signing_key for node, entry in nodes.items()},
            members={node: entry.member for node, entry in nodes.items()},
        )
        adverts = self._phase(session, KEYS, {node: {} for node in nodes}, _as_text)
        told = dict.fromkeys(adverts, adverts)
        shares = self._phase(session, SHARES, told, _as_answer)
        to_each = {
            node: {other: sealed.told.get(node, "") for other, sealed in shares.items()}
            for node in shares
        }
        masked = self._phase(
            session,
            MASK,
            to_each,
            lambda answer, reply: self._keep(schema, answer, reply),
            limit=limit_of(schema, LOSSLESS),
        )
        text = session.to_bytes().decode()
        return Fixed(text, adverts, sorted(shares), sorted(masked))

    def _agree(self, session: SealedSession, fixed: Fixed) -> dict[str, str]:
        """Survivors' signatures on who the survivors are."""
        told = dict.fromkeys(fixed.survivors, dict.fromkeys(fixed.survivors, ""))
        agreed = survivors_digest(fixed.survivors)

        def check(answer: SealedAnswer, _: Reply) -> str:
            if answer.told["survivors"] != agreed:
                raise SealingError("it has signed other survivors")
            return answer.to_bytes().decode()

        return self._insist(session, AGREE, told, check)

    def _reveal(self, session: SealedSession, fixed: Fixed) -> dict[str, SealedAnswer]:
        told = dict.fromkeys(fixed.survivors, fixed.signed)
        return self._insist(session, REVEAL, told, _as_answer)

    def _insist(
        self,
        session: SealedSession,
        phase: str,
        told: Mapping[str, Mapping[str, str]],
        take: Callable[[SealedAnswer, Reply], T],
    ) -> dict[str, T]:
        """A phase that has to succeed: what is masked can be added up in this session only."""
        try:
            return self._phase(session, phase, told, take, self._patience.reveal_s)
        except TooFew as error:
            raise SealingError(
                f"round {session.round} cannot be opened: {error}",
                "start their nodes, then run `gobelin aggregator up` again; it goes on here",
            ) from None

    def _phase(
        self,
        session: SealedSession,
        phase: str,
        told: Mapping[str, Mapping[str, str]],
        take: Callable[[SealedAnswer, Reply], T],
        insist_s: float = 0.0,
        limit: Limit = SMALL,
    ) -> dict[str, T]:
        """Ask nodes and gather what is taken from their answers; raises TooFew.

        `told` says whom to ask and what each is told. Ends when nobody who may still answer is
        left, or phase or patience is over; one that insists, for `insist_s`, ends with enough.
        """
        text = session.to_bytes().decode()
        signature = self._key.sign(SESSION, text.encode())
        calls = {node: SealedCall(text, phase, signature, told[node]) for node in sorted(told)}
        gathered = _Gathering[T](self._courier, calls, limit, self._clock())
        began = self._clock()
        while True:
            now = self._clock()
            gathered.look(now)
            for reply in self._courier.replies():
                self._take(session, phase, gathered, reply, take)
                del reply  # else it is held while the next one is pulled
            enough = len(gathered.taken) >= session.threshold
            if not gathered.owing or (insist_s and enough):
                break
            if now - began >= (insist_s or self._patience.phase_s):
                break
            if not insist_s and gathered.all_gone(now - self._patience.offline_s):
                break
            self._sleep(POLL_S)
        self._tell(
            "sealing", {"round": session.round, "phase": phase, "nodes": len(gathered.taken)}
        )
        if len(gathered.taken) < session.threshold:
            names = sorted(session.members[node] for node in gathered.owing | gathered.failed)
            raise TooFew(
                f"{len(gathered.taken)} of {session.threshold} nodes answered {phase}, "
                f"not {', '.join(names)}"
            )
        return gathered.taken

    def _take(
        self,
        session: SealedSession,
        phase: str,
        gathered: _Gathering[T],
        reply: Reply,
        take: Callable[[SealedAnswer, Reply], T],
    ) -> None:
        """One reply: an answer, a reason why there is none, or what answers something else."""
        node = reply.node
        call = gathered.calls.get(node)
        if call is None or reply.plan != call.digest or node not in gathered.owing:
            return
        if reply.lost:
            gathered.asked.pop(node, None)
            return
        try:
            if reply.error:
                raise SealingError(reply.error)
            answer = parse_answer(session, phase, node, reply.header.decode("ascii", "replace"))
            gathered.taken[node] = take(answer, reply)
        except GobelinError as error:
            gathered.failed.add(node)
            told = {"round": session.round, "phase": phase, "node": session.members[node]}
            self._tell("sealing_refused", {**told, "reason": error.what})

    def _keep(self, schema: ParameterSchema, answer: SealedAnswer, reply: Reply) -> None:
        """A masked delta, once it is on disk; raises SealingError when it is none."""
        sizes = {name: end - start for name, (start, end) in schema.segments.items()}
        if set(reply.arrays) != set(sizes):
            raise SealingError("its masked segments are not the schema's")
        for name, size in sizes.items():
            array = reply.arrays[name]
            if (array.dtype, array.encoding) != (MASKED, ENCODING_MASKED):
                raise SealingError("a masked segment has another type or encoding")
            if tuple(array.shape) != (size,) or len(array.data) != 4 * size:
                raise SealingError("a masked segment has another shape or size")
        segments = [reply.arrays[name].data for name in sizes]
        if masked_digest(segments) != answer.told["digest"]:
            raise SealingError("the masked delta is not the one it names")
        self._files.keep(answer.node, segments)


def answers_a_call(reply: Reply) -> bool:
    """Whether a reply answers a call, and no plan."""
    try:
        return bool(SealedAnswer.from_bytes(reply.header))
    except MalformedMessageError:
        return False


def _session(text: str) -> SealedSession:
    return SealedSession.from_bytes(text.encode())


def _as_text(answer: SealedAnswer, _: Reply) -> str:
    return answer.to_bytes().decode()


def _as_answer(answer: SealedAnswer, _: Reply) -> SealedAnswer:
    return answer
