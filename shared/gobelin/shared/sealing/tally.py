"""The aggregator's part in a sealed round: check answers, and take masks out of the sum."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from hashlib import sha256

from gobelin.protocols.messages import MalformedMessageError
from gobelin.protocols.sealing import (
    AGREE,
    KEYS,
    MASK,
    SHARES,
    SealedAnswer,
    SealedSession,
)
from gobelin.shared.errors import SealingError
from gobelin.shared.sealing.masks import Mask
from gobelin.shared.sealing.secrets import SIZE, join, own_mask, pair_mask, places, public_of
from gobelin.shared.signing import verify

TRIES = 2000  # sets of shares tried, where some of them are false
HEX = frozenset("0123456789abcdef")
NAMES = {KEYS: {"channel", "mask", "seed"}, MASK: {"digest"}, AGREE: {"survivors"}}
SEALED_SHARE = 2 * SIZE + 16  # bytes: of two secrets, and the tag
ANSWER = "sealed answer"  # purpose of a node's signature


def survivors_digest(nodes: Collection[str]) -> str:
    """SHA-256 over the ids of nodes, in order."""
    return sha256("\n".join(sorted(nodes)).encode()).hexdigest()


def parse_answer(session: SealedSession, phase: str, node: str, text: str) -> SealedAnswer:
    """A node's signed answer in a phase of the session.

    Raises SealingError on one that is malformed, and SignatureError on a forged one.
    """
    try:
        answer = SealedAnswer.from_bytes(text.encode())
    except (MalformedMessageError, UnicodeEncodeError):
        raise SealingError(f"the answer of node {node[:12]} is malformed") from None
    if (answer.session, answer.phase, answer.node) != (session.digest, phase, node):
        raise SealingError(f"the answer of node {node[:12]} is to something else")
    if node not in session.keys:
        raise SealingError(f"node {node[:12]} is not of this session")
    verify(session.keys[node], ANSWER, answer.statement, answer.signature)
    wanted = NAMES.get(phase, set(answer.told) & set(session.keys))
    size = SEALED_SHARE if phase == SHARES else SIZE
    told = answer.told.values()
    if set(answer.told) != wanted or any(len(v) != 2 * size or set(v) - HEX for v in told):
        raise SealingError(f"the answer of node {node[:12]} is not what {phase} asks for")
    return answer


def unmasking(
    session: SealedSession,
    adverts: Mapping[str, SealedAnswer],
    masked: Collection[str],
    survivors: Collection[str],
    reveals: Mapping[str, SealedAnswer],
) -> list[Mask]:
    """What to add to the survivors' sum so that no mask is left in it.

    `masked` are the nodes that all survivors have masked against. Raises SealingError where the
    shares revealed do not give a secret back.
    """
    masks = []
    for node in sorted(masked):
        shares = _shares_of(session, reveals, node)
        told = adverts[node].told
        if node in survivors:
            seed = _rebuild(session, shares, told["seed"], lambda s: sha256(s).hexdigest())
            masks.append(replace(own_mask(session, node, seed), minus=True))
        else:
            private = _rebuild(session, shares, told["mask"], public_of)
            masks += [  # of the pair it has the other sign than the survivor's
                pair_mask(session, private, node, other, adverts[other].told["mask"])
                for other in sorted(survivors)
            ]
    return masks


def _shares_of(
    session: SealedSession, reveals: Mapping[str, SealedAnswer], node: str
) -> dict[int, bytes]:
    """The shares revealed of one node's secret, by place."""
    return {
        place: bytes.fromhex(reveals[holder].told[node])
        for place, holder in enumerate(places(session))
        if holder in reveals and node in reveals[holder].told
    }


def _rebuild(
    session: SealedSession, shares: Mapping[int, bytes], bound: str, of: Callable[[bytes], str]
) -> bytes:
    """The secret with `of(secret) == bound`; where shares are false, of those that are not."""
    sets = itertools.combinations(sorted(shares), session.threshold)
    for some in itertools.islice(sets, TRIES):
        secret = join({place: shares[place] for place in some})
        if of(secret) == bound:
            return secret
    raise SealingError(
        f"{len(shares)} shares do not give a secret back, {session.threshold} true ones would",
        "start the nodes that are missing; they remember their shares",
    )
