"""Homes for pages: a federation that has really run a few rounds, and one grown to any size.

What is grown has the real files' format: manifests, event log, ledger, roster, the SuperLink's
table of nodes. Only the figures are made up.
"""

from __future__ import annotations

import hashlib
import json
import math
import sqlite3
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gobelin.server.contacts import PATIENCE
from gobelin.server.home import AggregatorHome
from gobelin.shared.files import json_bytes
from gobelin.shared.ledger import (
    PURPOSE,
    LedgerFolder,
    SignedEntry,
    Tree,
    TreeHead,
    entry_of,
    origin_of,
    sign_head,
)
from gobelin.shared.ledger.folder import entry_bytes
from gobelin.shared.ledger.note import SignedHead
from tests.keys import entry
from tests.server.world import Federation, Killed, Node, federation, kill_at

ROUND_S = 40.0  # of a grown round
BEAT_S = 10.0  # heartbeat interval that nodes announce


def run_home(
    folder: Path, patch: pytest.MonkeyPatch, sealed: int = 3, **settings: Any
) -> Federation:
    """Three members, `sealed` rounds of 40 sealed, the next one open with an answer in it."""
    nodes = [Node(name) for name in ("library", "museum", "school")]
    settings = {"release_every": 2, "rounds": 40, "quorum": 1.0, **settings}
    fed = federation(folder, *nodes, **settings)
    kill_at(patch, "contribution", sealed + 1)
    try:
        fed.run()
    except Killed:
        patch.undo()
    return fed


def beat(home: AggregatorHome, ago: Mapping[str, float], now: float | None = None) -> None:
    """The SuperLink's table of nodes, as Flower makes it: seconds since each node's last beat."""
    now = time.time() if now is None else now
    home.flower.mkdir(parents=True, exist_ok=True)
    link = sqlite3.connect(home.flower / "link.db")
    with link:
        link.execute("PRAGMA journal_mode=WAL")
        link.execute("DROP TABLE IF EXISTS node")
        link.execute(
            "CREATE TABLE node (node_id BIGINT UNIQUE, status VARCHAR, last_activated_at VARCHAR, "
            "online_until FLOAT, heartbeat_interval FLOAT, public_key BLOB UNIQUE, name VARCHAR)"
        )
        for number, node in enumerate(home.roster().nodes):
            if node.name not in ago:
                continue
            seen = now - ago[node.name]
            since = datetime.fromtimestamp(seen - 600, UTC).isoformat()
            row = (number, "online", since, seen + PATIENCE * BEAT_S, BEAT_S)
            link.execute(
                "INSERT INTO node VALUES (?, ?, ?, ?, ?, ?, ?)",
                (*row, node.public_key.encode(), node.name),
            )
    link.close()


def grow(home: AggregatorHome, rounds: int, members: int) -> None:
    """Seal `rounds` rounds by `members` members, after the pattern of the last one sealed here."""
    roster = home.roster()
    for number in range(members - len(roster.members)):
        name = f"member-{number:02d}"
        roster = roster.admit(entry(name, f"{name}-node", 500 + number))
    home.write_roster(roster)
    nodes = [(node.member, node.name, node.id) for node in roster.nodes]
    last = home.sealed_rounds()[-1]
    pattern, rng = home.manifest(last), np.random.default_rng(7)
    key, ledger = home.signing_key(), LedgerFolder(home.ledger)
    tree = Tree(
        signed.entry.leaf for n in range(last + 1) if (signed := ledger.entry(n)) is not None
    )
    start, totals = time.time() - (rounds - last) * ROUND_S - 60, dict.fromkeys(roster.members, 0.0)
    with home.events_file.open("ab") as log:
        for number in range(last + 1, rounds + 1):
            at = start + (number - last) * ROUND_S
            facts = _facts(pattern["facts"], number, rounds, nodes, totals, rng)
            manifest = {k: v for k, v in pattern.items() if k != "manifest_digest"}
            digest = hashlib.sha256(f"consensus {number}".encode()).hexdigest()
            manifest |= {"facts": facts, "vector_digest": digest}
            manifest["manifest_digest"] = hashlib.sha256(json_bytes(manifest)).hexdigest()
            folder = home.round_folder(number)
            folder.mkdir()
            (folder / "manifest.json").write_bytes(json_bytes(manifest))
            made = entry_of(manifest)
            signed = SignedEntry(made, key.sign(PURPOSE, made.record.to_bytes()))
            _put(ledger, home, signed, tree, key)
            for event in _events(facts, digest, at):
                log.write(json.dumps(event, sort_keys=True).encode() + b"\n")


def _put(
    ledger: LedgerFolder, home: AggregatorHome, signed: SignedEntry, tree: Tree, key: Any
) -> None:
    """The round's leaf and head, written without waiting for the disk."""
    number = signed.entry.record.round
    tree.append(signed.entry.leaf)
    head: SignedHead = sign_head(
        key, TreeHead(origin_of(home.front().name), len(tree), tree.root())
    )
    (ledger.folder / "rounds" / f"{number:05d}.json").write_bytes(entry_bytes(signed))
    (ledger.folder / "heads" / f"{len(tree):05d}.note").write_bytes(head.text.encode())


def _facts(
    pattern: Mapping[str, Any],
    number: int,
    rounds: int,
    nodes: list[tuple[str, str, str]],
    totals: dict[str, float],
    rng: np.random.Generator,
) -> dict[str, Any]:
    """What a grown round records; a few nodes are absent, refused or late."""
    row, done = pattern["contributions"][0], number / rounds
    chance = rng.random(len(nodes))
    rows = []
    for (member, name, node), luck in zip(nodes, chance, strict=True):
        if luck < 0.04:
            continue
        noise = float(rng.normal(0, 0.01))
        rows.append(
            {
                **row,
                "member": member,
                "node": name,
                "id": node,
                "staleness": int(luck > 0.99 and number > 1),
                "bytes": 712_000 + int(3000 * luck),
                "codec": "int8",
                "seconds": 20 + 12 * float(luck),
                "samples": 32_000,
                "weight": 1 / len(nodes),
                "measured": {
                    "deviation": 0.16,
                    "effective_rank": 3 + 9 * (1 - math.exp(-4 * done)) + 10 * noise,
                    "frame_rotation": 40 * math.exp(-5 * done) + 3,
                    "score": 0.02 * math.exp(-3 * done) + noise / 10,
                },
                "metrics": {
                    "loss": 0.2 + 0.5 * math.exp(-4 * done) + noise,
                    "prediction": 0.1 + 0.2 * math.exp(-4 * done),
                    "anti_collapse": 1.1 + 4 * math.exp(-4 * done) + noise,
                    "effective_rank": 5 + 5 * done,
                    "distortion": 0.01 + noise / 10,
                    "sent_bytes": 712_000.0,
                },
            }
        )
    moved = {row["member"]: 1 / len(rows) for row in rows}
    for member, share in moved.items():
        totals[member] += share
    told = {"kept": 0.4, "minority_loss": 0.1, "norm": 0.15, "reduced": [], "weight": 0.02}
    away = [
        {"id": node, "member": member, "node": name}
        for (member, name, node), luck in zip(nodes, chance, strict=True)
        if luck < 0.04
    ]
    refused = [
        {**one, "staleness": 0, "reason": "vector.not_finite"} for one in away[: len(away) // 2]
    ]
    return {
        **pattern,
        "round": number,
        "rounds": pattern["rounds"],
        "plan_digest": hashlib.sha256(f"plan {number}".encode()).hexdigest(),
        "contributions": rows,
        "absent": away,
        "refused": refused,
        "members": {
            name: {**told, "influence": moved.get(name, 0.0), "influence_total": total}
            for name, total in totals.items()
        },
        "nodes": {
            node: {
                "base": number - 1,
                "receipts": [
                    {
                        "counted": True,
                        "delta_digest": row["delta_digest"],
                        "federation": pattern["federation"],
                        "reason": "",
                        "round": number - back,
                        "weight": 0.02,
                    }
                    for back in (1, 0)
                ],
            }
            for _, _, node in nodes
        },
        "cosine": 0.2 + 0.1 * float(rng.random()),
        "sign_most": 0.4 + 0.1 * float(rng.random()),
        "sign_all": 0.1,
        "retained_norm": 0.6 + 0.05 * float(rng.random()),
        "frame_rotation": 30 * math.exp(-5 * done) + 2,
        "seconds": 36.0 + 4 * float(rng.random()),
    }


def _events(facts: Mapping[str, Any], digest: str, at: float) -> list[dict[str, Any]]:
    """A grown round's events, as the engine tells them."""

    def when(after: float) -> str:
        return datetime.fromtimestamp(at + after, UTC).isoformat(timespec="milliseconds")

    number = facts["round"]
    sent = {row["node"]: {"bytes": 720_000, "steps": 1} for row in facts["contributions"]}
    opened = {"event": "round_opened", "attempt": 1, "base_digest": facts["base_digest"]}
    events = [{"at": when(0), "round": number, **opened}]
    events.append({"at": when(0.1), "event": "offered", "round": number, "nodes": sent})
    for row in facts["contributions"]:
        kind = "late" if row["staleness"] else "contribution"
        events.append({"at": when(row["seconds"]), "event": kind, **row, "round": number})
    for one in facts["refused"]:
        found = {"reason": one["reason"], "found": "parameter 17"}
        told = {"event": "refused", "round": number, "node": one["node"], **found}
        events.append({"at": when(33), **told})
    figures = ("cosine", "sign_all", "sign_most", "retained_norm", "frame_rotation", "seconds")
    sealed = {name: facts[name] for name in figures} | {"overhead_s": 4.0, "vector_digest": digest}
    events.append({"at": when(38), "event": "round_sealed", "round": number, **sealed})
    return events
