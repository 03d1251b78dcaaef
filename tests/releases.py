"""Signed releases of models that nobody trained: whole, with proofs and heads as real ones have."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from gobelin.protocols.ledger import ReleaseStatement
from gobelin.shared.checkpoint import fill_checkpoint
from gobelin.shared.files import folder_atomic
from gobelin.shared.ledger import Entry, Tree, TreeHead, origin_of, sign_head
from gobelin.shared.model import build_jepa
from gobelin.shared.recipe import Recipe, load_recipe
from gobelin.shared.release import ReleaseKey, seal_release
from gobelin.shared.signing import SigningKey
from gobelin.shared.vector import ParameterVector
from tests.ledgers import entry_of_round

DAY_S = 86_400
ISSUED = int(time.time()) - DAY_S


def release_key() -> ReleaseKey:
    """The same every time."""
    return ReleaseKey(ec.derive_private_key(20260102, ec.SECP256R1()))


def write_release(
    folder: Path,
    number: int,
    key: SigningKey,
    *,
    seed: int | None = None,
    federation: str = "fed",
    days: int = 90,
    recipe: Recipe | None = None,
    vector: ParameterVector | None = None,
) -> Path:
    """Write the release of round `number` into a folder of releases, signed by an aggregator's key.

    Its model is `vector`, or the one a federation of that `seed` starts from.
    """
    recipe = recipe or load_recipe("toy")
    if vector is None:
        vector = ParameterVector.of(build_jepa(recipe, number if seed is None else seed))
    tree, entries = Tree(), []
    for at in range(number + 1):
        made = entry_of_round(at, 2)
        digest = vector.digest if at == number else made.record.vector_digest
        record = replace(made.record, federation=federation, vector_digest=digest)
        entries.append(Entry(record, made.rows))
        tree.append(entries[-1].leaf)
    head = sign_head(key, TreeHead(origin_of(federation), len(tree), tree.root()))
    release = release_key()
    statement = ReleaseStatement(
        federation=federation,
        round=number,
        vector_digest=vector.digest,
        issued=ISSUED,
        expires=ISSUED + days * DAY_S,
        key=release.public,
    )
    path = folder / f"release-{number:05d}"
    with folder_atomic(path) as tmp:
        fill_checkpoint(tmp, recipe, vector, {"federation": federation, "round": number})
        proof = entries[-1].proof(tree, len(tree), None)
        seal_release(tmp, path.name, statement, proof, head, (key, release))
    return path
