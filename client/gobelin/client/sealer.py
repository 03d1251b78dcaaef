"""A node's shell of a sealed round: its secrets on disk, and its delta masked when it is asked for.

What an answer depends on is written down before the answer leaves, so a node that is killed at any
moment answers the same way again or not at all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from gobelin.client.home import NodeHome, NodeSettings
from gobelin.client.membership import known_roster
from gobelin.client.site_policy import read_policy
from gobelin.client.spool import Spooled
from gobelin.protocols.enrolment import CONTRIBUTOR
from gobelin.protocols.messages import MalformedMessageError, RoundPlan
from gobelin.protocols.sealing import KEYS, MASK, SealedCall, SealedSession
from gobelin.shared.codec import LOSSLESS, Compressed, compress
from gobelin.shared.errors import (
    OTHER_VERSION,
    ConfigError,
    ContributionError,
    PeersError,
    SealingError,
    StateError,
)
from gobelin.shared.files import PRIVATE, write_atomic
from gobelin.shared.keys import fingerprint
from gobelin.shared.sealing import (
    Mask,
    Peer,
    PeerState,
    Ring,
    add_masks,
    bits_for,
    masked_digest,
    threshold_of,
)
from gobelin.shared.signing import SigningKey
from gobelin.shared.vector import ParameterVector

SALT_BYTES = 32
PINNED = "sealed"  # name of the pin: this node's federation has begun to seal its rounds


@dataclass(frozen=True)
class SealedReply:
    """An answer to a call, canonical bytes as text, and in MASK the masked segments by name."""

    answer: str
    segments: Mapping[str, bytes] = field(default_factory=dict)


def on_grid(ring: Ring, delta: ParameterVector, owed: Tensor | None, norm: float) -> Compressed:
    """A delta, and what was owed before, as a sealed round adds it up; the rest is owed.

    It is shortened to `norm`, unless that is 0: what that takes away is not owed, for it is a
    bound on what a node may do, and no loss to be made good.
    """
    wanted = delta if owed is None else ParameterVector(delta.schema, delta.values + owed)
    long = norm and wanted.norm() > norm
    values = wanted.values * (norm / wanted.norm()) if long else wanted.values
    held = ParameterVector(delta.schema, ring.round(values))
    residual = ParameterVector(delta.schema, values - held.values)
    lost = residual.norm()
    distortion = (lost / math.hypot(*(held.norm(), lost))) ** 2 if lost else 0.0
    payload = compress(LOSSLESS, held, None).payload
    return Compressed(payload, residual.values if lost else None, distortion)


class Sealer:
    """Answers the calls of sealed rounds for one node home."""

    def __init__(self, home: NodeHome, settings: NodeSettings) -> None:
        self._home = home
        self._settings = settings
        self._state_file = home.sealed / "state.json"
        self._plan_file = home.sealed / "plan.json"

    def require(self, plan: RoundPlan) -> None:
        """Raise ContributionError or ConfigError on a plan this node must not answer.

        Once a federation's rounds are sealed, an open one would show what they have hidden.
        """
        if not plan.sealed:
            if self._settings.egress.sealed_only:
                raise ContributionError(
                    "this round is open: the aggregator would see this node's delta",
                    "ask it for sealed rounds, or set egress.sealed_only = false in node.toml",
                )
            if self._home.pinned(PINNED):
                raise ContributionError(
                    "this federation's rounds were sealed, this one is open",
                    "ask its operator why; another --home begins anew",
                )
            return
        if self._settings.compute.seconds_per_round is not None:
            raise ConfigError(
                "a sealed round takes every local step, for deltas cannot be scaled in a sum",
                "unset compute.seconds_per_round in node.toml",
            )
        _require_place(plan, 2)

    def expect(self, plan: RoundPlan) -> None:
        """Keep a sealed plan: its calls come when its local steps are done."""
        if plan.sealed:
            self._home.pin(PINNED, True)
            write_atomic(self._plan_file, plan.to_bytes())

    def answer(
        self, call: SealedCall, finished: Callable[[RoundPlan], Spooled | None]
    ) -> SealedReply:
        """Answer a call, from what this node has finished for its plan.

        Raises SealingError, PeersError or SignatureError on a call that is not to be answered.
        """
        plan = self._plan()
        if plan is None:
            raise SealingError("this node has begun no sealed round")
        session = _session_of(plan, call)
        segments: dict[str, bytes] = {}

        def mask(masks: Sequence[Mask]) -> str:
            spooled = finished(plan)
            if spooled is None:
                raise SealingError("this node has finished nothing for this round")
            segments.update(_masked(plan, spooled, masks))
            return masked_digest(list(segments.values()))

        peer, before = self._peer(), self._state()
        after = peer.answer(before, call, mask)
        if after is not before:
            if call.phase == KEYS:
                self._require_listed(session)
            self._know(session)
            write_atomic(self._state_file, after.to_bytes(), PRIVATE)
        elif call.phase == MASK:  # answered before
            mask(peer.masks(after))
        return SealedReply(after.answers[call.phase], segments)

    def _require_listed(self, session: SealedSession) -> None:
        """Raise PeersError unless all of a session are on the signed roster log as it says.

        Who is invented for one node is then invented before all. Of a node that joined without an
        invite, which sees no roster, nothing is asked.
        """
        roster = known_roster(self._home)
        if roster is None:
            return
        on_it = {
            node: (record.member, record.signing_key)
            for node, record in roster.current.items()
            if record.role == CONTRIBUTOR
        }
        told = {node: (session.members[node], key) for node, key in session.keys.items()}
        strange = sorted(told[node][0] for node in told if on_it.get(node) != told[node])
        if strange:
            raise PeersError(
                f"the session names nodes of {', '.join(strange)} that the signed roster has not",
                "ask the aggregator's operator, and the other members, who these are",
            )

    def _know(self, session: SealedSession) -> None:
        """Remember the keys others sign with; raises PeersError where one has changed."""
        before = self._home.pinned("peers") or {}
        changed = sorted(
            session.members[node]
            for node, key in session.keys.items()
            if before.get(node, key) != key
        )
        if changed:
            raise PeersError(
                f"the signing keys of {', '.join(changed)} are not those this node has seen",
                "ask these members whether they have new keys before you go on",
            )
        if not set(session.keys) <= set(before):
            self._home.remember("peers", {**before, **session.keys})

    def _peer(self) -> Peer:
        home = self._home
        return Peer(
            node=fingerprint(home.public_key_file.read_bytes()),
            key=SigningKey.load(home.signing_key_file),
            aggregator=home.aggregator_key(),
            minimum=max(
                self._settings.egress.min_sealed_members,
                read_policy(self._home).min_sealed_members or 0,
            ),
        )

    def _plan(self) -> RoundPlan | None:
        try:
            return RoundPlan.from_bytes(self._plan_file.read_bytes())
        except FileNotFoundError:
            return None
        except MalformedMessageError:
            raise self._damaged() from None

    def _state(self) -> PeerState:
        try:
            return PeerState.from_bytes(self._state_file.read_bytes())
        except FileNotFoundError:
            return PeerState()
        except (ValueError, KeyError, TypeError):
            raise self._damaged() from None

    def _damaged(self) -> StateError:
        return StateError(f"{self._home.sealed} is damaged", "restore it from a backup")


def _session_of(plan: RoundPlan, call: SealedCall) -> SealedSession:
    """The session of a call; raises SealingError unless it is about this plan."""
    try:
        session = SealedSession.from_bytes(call.session.encode())
    except MalformedMessageError:
        raise SealingError("the session is malformed", OTHER_VERSION) from None
    found = (session.federation, session.round, session.plan_digest, session.base_digest)
    if found != (plan.federation, plan.round, plan.digest, plan.base_digest):
        raise SealingError("the session is about another plan or base than this node's")
    if session.threshold < threshold_of(plan.sealed_threshold, len(session.keys)):
        raise SealingError("the session has a lower threshold than its plan")
    _require_place(plan, len(session.keys))
    return session


def _require_place(plan: RoundPlan, nodes: int) -> None:
    """Raise SealingError unless the deltas of so many nodes add up within the plan's ring."""
    try:
        place = 0 < plan.sealed_bits <= bits_for(nodes, plan.sealed_bound)
    except ValueError:
        place = False
    if not place:
        raise SealingError(f"the plan's ring has no place for the deltas of {nodes} nodes")


def _masked(plan: RoundPlan, spooled: Spooled, masks: Sequence[Mask]) -> dict[str, bytes]:
    """The delta's words under their masks, little-endian, by segment."""
    words = Ring(plan.sealed_bits, plan.sealed_bound).words(spooled.delta.values)
    add_masks(words, masks)
    little = words.astype("<u4", copy=False)
    places = spooled.payload.schema.segments.items()
    return {name: little[start:end].tobytes() for name, (start, end) in places}
