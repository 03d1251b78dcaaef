"""One node in a sealed round: a pure state machine over the calls of its aggregator.

The aggregator may cheat: it may ask twice, show nodes different peers or different survivors, or
go back. So a node answers a phase once (the same call again gets the same answer), in order; it
reveals only what enough of the others have signed to be the survivors, for each peer one of its
two secrets, and once in a round, for ever. A state is written down before what it answers leaves.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from gobelin.protocols.messages import MalformedMessageError
from gobelin.protocols.sealing import (
    AGREE,
    KEYS,
    MASK,
    PHASES,
    REVEAL,
    SHARES,
    SealedAnswer,
    SealedCall,
    SealedSession,
)
from gobelin.shared.errors import OTHER_VERSION, PeersError, SealingError
from gobelin.shared.sealing.masks import Mask
from gobelin.shared.sealing.secrets import (
    SIZE,
    Secrets,
    open_share,
    own_mask,
    pair_mask,
    places,
    seal_share,
    split,
)
from gobelin.shared.sealing.tally import ANSWER, parse_answer, survivors_digest
from gobelin.shared.signing import SigningKey, verify

SESSION = "sealed session"  # purpose of the aggregator's signature

Masked = Callable[[Sequence[Mask]], str]  # masks this node's delta; the digest of what will be sent


@dataclass(frozen=True)
class PeerState:
    """What a node keeps of its last session, and for ever of the rounds it has revealed in."""

    session: str = ""  # canonical bytes of the SealedSession
    secrets: Secrets | None = None  # gone once this node has revealed
    share: str = ""  # of this node's secrets, its own
    calls: Mapping[str, str] = field(default_factory=dict)  # digest of the call, by phase
    told: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # and what it told
    answers: Mapping[str, str] = field(default_factory=dict)  # canonical bytes, by phase
    revealed: int = 0  # the last round in which this node has revealed shares

    def to_bytes(self) -> bytes:
        """As JSON; it holds secrets."""
        values = dataclasses.asdict(replace(self, secrets=None))
        if self.secrets is not None:
            values["secrets"] = {k: v.hex() for k, v in vars(self.secrets).items()}
        return json.dumps(values, sort_keys=True).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> PeerState:
        """What `to_bytes` gave; raises ValueError, KeyError or TypeError on anything else."""
        values: dict[str, Any] = json.loads(data)
        if values["secrets"] is not None:
            kept = {name: bytes.fromhex(value) for name, value in values["secrets"].items()}
            values["secrets"] = Secrets(**kept)
        return cls(**values)


@dataclass(frozen=True)
class Peer:
    """A node as it takes part: who it is, whom it believes, and how few others it hides among."""

    node: str  # id
    key: SigningKey
    aggregator: str  # public key
    minimum: int  # members whose deltas are in the sum, this one's included

    def answer(self, state: PeerState, call: SealedCall, masked: Masked) -> PeerState:
        """The state in which `call.phase` is answered; the same one where it is already.

        Raises SealingError when the call is not one to be answered, PeersError when there are too
        few others. Nothing of a refused call is kept.
        """
        session = self._session(call)
        if call.phase not in PHASES:
            raise SealingError(f"a sealed round has no phase {call.phase!r:.20}", OTHER_VERSION)
        if call.session != state.session:
            state = self._begin(state, session, call)
        if call.phase in state.answers:
            if state.calls[call.phase] != call.digest:
                raise SealingError(f"the phase {call.phase} is answered, and asked otherwise now")
            return state
        if set(state.answers) != set(PHASES[: PHASES.index(call.phase)]):
            raise SealingError(f"the phase {call.phase} is asked out of turn")
        state = replace(
            state,
            calls={**state.calls, call.phase: call.digest},
            told={**state.told, call.phase: dict(call.told)},
        )
        step = {
            KEYS: self._keys,
            SHARES: self._shares,
            MASK: lambda state, session: self._mask(state, session, masked),
            AGREE: self._agree,
            REVEAL: self._reveal,
        }[call.phase]
        state, told = step(state, session)
        return replace(
            state, answers={**state.answers, call.phase: self._signed(session, call.phase, told)}
        )

    def masks(self, state: PeerState) -> list[Mask]:
        """The masks of this node's delta, once the phase MASK is asked.

        Raises SealingError when the secrets are gone, for what they masked has been added up.
        """
        session = SealedSession.from_bytes(state.session.encode())
        secrets = _secrets(state)
        adverts = self._answers(session, KEYS, state.told[SHARES])
        return [own_mask(session, self.node, secrets.seed)] + [
            pair_mask(session, secrets.mask, self.node, other, adverts[other].told["mask"])
            for other in sorted(state.told[MASK])
            if other != self.node
        ]

    def _session(self, call: SealedCall) -> SealedSession:
        """The session of a call, known to be the aggregator's own and one with this node."""
        verify(self.aggregator, SESSION, call.session.encode(), call.signature)
        try:
            session = SealedSession.from_bytes(call.session.encode())
        except MalformedMessageError:
            raise SealingError("the session is malformed", OTHER_VERSION) from None
        if session.keys.get(self.node) != self.key.public or set(session.keys) != set(
            session.members
        ):
            raise SealingError("the session is not one of this node", "ask to be admitted again")
        if not len(session.keys) / 2 < session.threshold <= len(session.keys):
            raise SealingError(
                f"{session.threshold} of {len(session.keys)} shares: two halves could each "
                "be made to add up their own",
                "raise rounds.sealed_threshold",
            )
        return session

    def _begin(self, state: PeerState, session: SealedSession, call: SealedCall) -> PeerState:
        """Leave the last session for a newer one; its secrets go with it."""
        if session.round <= state.revealed:
            raise SealingError(
                f"this node has revealed shares in round {state.revealed} already: adding up "
                f"round {session.round} once more could tell one delta from the difference",
                "go on with the next round",
            )
        if state.session:
            last = SealedSession.from_bytes(state.session.encode())
            if (session.round, session.session) <= (last.round, last.session):
                raise SealingError(f"session {session.session} of round {session.round} is past")
        self._require(session, session.keys)
        return PeerState(call.session, Secrets.generate(), revealed=state.revealed)

    def _keys(self, state: PeerState, session: SealedSession) -> tuple[PeerState, dict[str, str]]:
        return state, _secrets(state).advert()

    def _shares(self, state: PeerState, session: SealedSession) -> tuple[PeerState, dict[str, str]]:
        """Split the two secrets that may have to be revealed, and seal a share for each peer."""
        adverts = self._answers(session, KEYS, state.told[SHARES])
        self._require(session, adverts)
        secrets, order = _secrets(state), places(session)
        seeds = split(secrets.seed, session.threshold, len(order))
        masks = split(secrets.mask, session.threshold, len(order))
        shares = {node: seeds[at] + masks[at] for at, node in enumerate(order)}
        told = {
            other: seal_share(
                session, secrets.channel, self.node, other, advert.told["channel"], shares[other]
            )
            for other, advert in adverts.items()
            if other != self.node
        }
        return replace(state, share=shares[self.node].hex()), told

    def _mask(
        self, state: PeerState, session: SealedSession, masked: Masked
    ) -> tuple[PeerState, dict[str, str]]:
        """Mask against those whose shares have come; all of them can be read, or nobody is."""
        told = state.told[MASK]
        if not set(told) <= set(state.told[SHARES]):
            raise SealingError("shares of nodes that have no keys in this session")
        self._require(session, told)
        for other in set(told) - {self.node}:
            self._share_of(state, session, other)
        return state, {"digest": masked(self.masks(state))}

    def _agree(self, state: PeerState, session: SealedSession) -> tuple[PeerState, dict[str, str]]:
        survivors = set(state.told[AGREE])
        if not survivors <= set(state.told[MASK]):
            raise SealingError("survivors that this node has not masked against")
        self._require(session, survivors)
        return state, {"survivors": survivors_digest(survivors)}

    def _reveal(self, state: PeerState, session: SealedSession) -> tuple[PeerState, dict[str, str]]:
        """A share of each survivor's seed, and of each other node's mask key; then forget."""
        survivors = set(state.told[AGREE])
        signed = self._answers(session, AGREE, state.told[REVEAL])
        agreed = survivors_digest(survivors)
        if not set(signed) <= survivors or any(
            answer.told["survivors"] != agreed for answer in signed.values()
        ):
            raise SealingError("nodes were told different survivors")
        if len(signed) < session.threshold:
            found = f"{len(signed)} of {session.threshold}"
            raise SealingError(f"too few nodes have agreed on the survivors: {found}")
        told = {}
        for other in state.told[MASK]:
            share = self._share_of(state, session, other)
            told[other] = (share[:SIZE] if other in survivors else share[SIZE:]).hex()
        return replace(state, secrets=None, share="", revealed=session.round), told

    def _share_of(self, state: PeerState, session: SealedSession, other: str) -> bytes:
        """The share of another node's secrets, or of this one's own."""
        if other == self.node:
            return bytes.fromhex(state.share)
        advert = parse_answer(session, KEYS, other, state.told[SHARES][other])
        public, sealed = advert.told["channel"], state.told[MASK][other]
        return open_share(session, _secrets(state).channel, other, self.node, public, sealed)

    def _require(self, session: SealedSession, nodes: Collection[str]) -> None:
        """Raise PeersError unless this node is among enough nodes, of enough members."""
        members = {session.members[node] for node in nodes if node in session.members}
        if self.node not in nodes or len(nodes) < session.threshold:
            raise SealingError(
                f"{len(nodes)} nodes, without this one or fewer than the {session.threshold} needed"
            )
        if len(members) < self.minimum:
            raise PeersError(
                f"a sum of {len(members)} members, this node asks for {self.minimum}",
                "lower egress.min_sealed_members in node.toml, or wait for more members",
            )

    def _answers(
        self, session: SealedSession, phase: str, told: Mapping[str, str]
    ) -> dict[str, SealedAnswer]:
        """What nodes of the session have answered in a phase; raises SealingError on a forgery."""
        return {node: parse_answer(session, phase, node, text) for node, text in told.items()}

    def _signed(self, session: SealedSession, phase: str, told: Mapping[str, str]) -> str:
        answer = SealedAnswer(session.digest, phase, self.node, told)
        signature = self.key.sign(ANSWER, answer.statement)
        return replace(answer, signature=signature).to_bytes().decode()


def _secrets(state: PeerState) -> Secrets:
    if state.secrets is None:
        raise SealingError("the secrets of this session are gone: its sum has been revealed")
    return state.secrets
