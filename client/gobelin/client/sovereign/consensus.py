"""The consensus a region builds on: a verified release, or a checkpoint taken unverified."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gobelin.client.sovereign.lineage import Origin
from gobelin.shared.checkpoint import read_checkpoint
from gobelin.shared.errors import UnverifiedError
from gobelin.shared.model import build_jepa
from gobelin.shared.recipe import Recipe
from gobelin.shared.release import verify_release
from gobelin.shared.seeds import derive_seed
from gobelin.shared.signing import find_signing_key
from gobelin.shared.vector import ParameterVector

CA = "ca.pem"  # with the aggregator's key, pinned in the home of a region that has joined


@dataclass(frozen=True)
class Consensus:
    """A consensus model, and what a lineage says of it."""

    recipe: Recipe
    vector: ParameterVector
    origin: Origin


def take_release(
    folder: Path, *, home: Path | None = None, key: Path | None = None, unverified: bool = False
) -> Consensus:
    """The consensus in a folder, checked against the aggregator's signing key.

    The key is that of the file `key`, or of the ca.pem in `home`. With `unverified`, and only then,
    a bare checkpoint is taken, and nothing but its own digests is checked. Raises UnverifiedError
    where there is no key, ReleaseError, SignatureError or CheckpointError on what does not hold.
    """
    if unverified:
        found = read_checkpoint(folder)
        federation, number = found.facts.get("federation", ""), found.facts.get("round", 0)
        origin = Origin(
            federation=str(federation), round=int(number), vector_digest=found.vector.digest
        )
        return Consensus(found.recipe, found.vector, origin)
    public = aggregator_key(home, key)
    release = verify_release(folder, public)
    said = release.statement
    origin = Origin(
        federation=said.federation,
        round=said.round,
        vector_digest=said.vector_digest,
        verified_by=public,
    )
    return Consensus(release.checkpoint.recipe, release.checkpoint.vector, origin)


def untrained(recipe: Recipe, seed: int) -> Consensus:
    """Random weights in a consensus's place: what a build from scratch starts from."""
    vector = ParameterVector.of(build_jepa(recipe, derive_seed(seed, "from scratch")))
    return Consensus(recipe, vector, Origin(vector_digest=vector.digest))


def aggregator_key(home: Path | None, key: Path | None) -> str:
    """The aggregator's public signing key, of the file `key` or of `home`'s ca.pem.

    Raises UnverifiedError where there is neither, ConfigError where there is no key in it.
    """
    file = key or (home and home / CA)
    if file is None or not file.is_file():
        where = f"there is no {file}" if file else "no key is given"
        raise UnverifiedError(
            f"{where} to verify the release against",
            "pass the federation's ca.pem as --key, or say --unverified for a bare checkpoint",
        )
    return find_signing_key(file.read_bytes(), str(file))
