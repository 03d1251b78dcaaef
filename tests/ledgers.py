"""Ledgers of rounds that no model was trained for, signed as real ones are."""

from __future__ import annotations

import functools
import hashlib
import random

from gobelin.protocols.enrolment import ADMIT, PURPOSE_RECORD, RosterRecord
from gobelin.protocols.ledger import ContributionRecord, RoundRecord
from gobelin.server.roster import NodeEntry
from gobelin.shared.ledger import (
    PURPOSE,
    Entry,
    History,
    SignedEntry,
    SignedHead,
    Tree,
    TreeHead,
    cosign,
    leaf_hash,
    origin_of,
    sign_head,
)
from gobelin.shared.roster_log import RosterLog, Signed
from gobelin.shared.signing import SigningKey
from tests.keys import entry, signing_key

AGGREGATOR = 1000  # number of its key
START = 1_700_000_000  # seconds since 1970, of the first cosignature
FEDERATION = "fed"


def aggregator() -> SigningKey:
    """The key of these ledgers' aggregator."""
    return signing_key(AGGREGATOR)


@functools.cache
def key_of(number: int) -> SigningKey:
    """The key of a node, made once."""
    return signing_key(number + 1)


def digest(*parts: object) -> str:
    """Any digest, the same for the same parts."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()


@functools.cache
def node_of(number: int) -> NodeEntry:
    """A node of a member of its own."""
    return entry(f"m{number}", f"n{number}", number + 1)


@functools.cache
def roster_of(nodes: int) -> tuple[Signed, ...]:
    """The roster log that admits these nodes."""
    log = RosterLog(digest("federation"), aggregator().public)
    for node in map(node_of, range(nodes)):
        record = RosterRecord(
            index=len(log.records),
            previous=log.head,
            change=ADMIT,
            member=node.member,
            node=node.name,
            public_key=node.public_key,
            signing_key=node.signing_key,
            role=node.role,
            reason="",
            at=START,
        )
        log.add(Signed(record, aggregator().sign(PURPOSE_RECORD, record.to_bytes())))
    return tuple(log.records)


def entry_of_round(number: int, nodes: int, seed: int = 0) -> Entry:
    """Round `number`: of every node something, now and then refused or absent."""
    chance = random.Random(f"{seed} {number}")
    rows = []
    for i in range(nodes if number else 0):
        reason = chance.choice(["", "", "", "", "", "", "absent", "magnitude"]) if i > 1 else ""
        told = (digest("delta", seed, number, i), 1.0 / nodes) if not reason else ("", 0.0)
        rows.append(
            ContributionRecord(
                round=number,
                asked=number,
                member=f"m{i}",
                node=f"n{i}",
                id=node_of(i).id,
                delta_digest=told[0],
                moments_digest="",
                counted=not reason,
                reason=reason,
                weight=told[1],
                influence=told[1],
                reduced=chance.choice(["", "capped"]) if not reason else "",
            )
        )
    record = RoundRecord(
        federation=FEDERATION,
        round=number,
        plan_digest=digest("plan", number) if number else "",
        base_digest=digest("vector", seed, number - 1) if number else "",
        vector_digest=digest("vector", seed, number),
        aggregate_digest=digest("aggregate", seed, number) if number else "",
        roster_digest=roster_of(nodes)[-1].record.digest if number else "",
        settings_digest=digest("settings") if number else "",
        manifest_digest=digest("manifest", seed, number),
        contributions=len(rows),
        contributions_root=Tree(leaf_hash(row.to_bytes()) for row in rows).root().hex(),
    )
    return Entry(record, tuple(rows))


def history_of(rounds: int, nodes: int, cosigned: bool = True, seed: int = 0) -> History:
    """A whole ledger behind its founding model; every node cosigns every head."""
    key, tree = aggregator(), Tree()
    entries: list[SignedEntry] = []
    heads: dict[int, SignedHead] = {}
    for number in range(rounds + 1):
        told = entry_of_round(number, nodes, seed)
        entries.append(SignedEntry(told, key.sign(PURPOSE, told.canonical)))
        tree.append(told.leaf)
        size = len(tree)
        head = TreeHead(origin_of(FEDERATION), size, tree.root())
        lines = [
            cosign(key_of(i), f"n{i}", head, START + size) for i in range(nodes if cosigned else 0)
        ]
        heads[size] = sign_head(key, head).with_lines(lines)
    return History(entries, heads, [list(roster_of(nodes))])
