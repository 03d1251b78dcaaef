"""Lineage: what a sovereign model was made of, in the region's own words and signed by its key."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from gobelin.shared.errors import CheckpointError, SignatureError
from gobelin.shared.files import json_bytes
from gobelin.shared.settings import Settings, explain
from gobelin.shared.signing import SigningKey, verify

FILE = "lineage.json"
PURPOSE = "sovereign lineage"
KEY_FILE = "region.key"  # in the region's home
LICENCE = "Apache-2.0"
REMEDY = "get it again from whoever built it"

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]  # SHA-256, as hex
Count = Annotated[int, Field(ge=0)]


class Origin(Settings):
    """The consensus release a build starts from, and who says that it is one."""

    federation: str = ""  # empty where a bare checkpoint does not say
    round: Count = 0
    vector_digest: Digest
    verified_by: str = ""  # the aggregator's public key its signatures were checked against

    @property
    def verified(self) -> bool:
        """Whether its signatures were checked at all."""
        return bool(self.verified_by)


class DataStatement(Settings):
    """What is said of data, never any of them."""

    name: str
    samples: Count
    classes: tuple[str, ...] = ()
    counts: tuple[Count, ...] = ()  # samples of each class
    digest: Digest  # over the samples' own digests and labels, see `state_data`


class Parent(Settings):
    """A model this one was made from, beside the release it starts from."""

    kind: Literal["package", "release"]
    digest: Digest  # a package's own, or a release's vector's
    name: str = ""


class Lineage(Settings):
    """The statement that the region signs."""

    format: Literal["gobelin.lineage.v1"] = "gobelin.lineage.v1"
    region: str
    release: Origin
    data: tuple[DataStatement, ...] = ()
    method: str  # how it was built, such as "lora"; "rebase" or "merge" of parents
    steps: Count = 0  # optimizer steps taken
    seeds: dict[str, int] = Field(default_factory=dict)
    parents: tuple[Parent, ...] = ()
    evaluation: dict[str, Any] = Field(default_factory=dict)  # its summary
    licence: str = LICENCE
    files: dict[str, Digest] = Field(default_factory=dict)  # of all others, by path

    @property
    def payload(self) -> bytes:
        """What is signed, and what the package's own digest is over."""
        return json_bytes(self.model_dump(mode="json"))

    @property
    def digest(self) -> str:
        """SHA-256 of the payload: the package's own."""
        return hashlib.sha256(self.payload).hexdigest()


def sign_lineage(lineage: Lineage, key: SigningKey) -> dict[str, Any]:
    """The content of lineage.json."""
    return {
        "statement": lineage.model_dump(mode="json"),
        "key": key.public,
        "signature": key.sign(PURPOSE, lineage.payload),
    }


def read_lineage(path: Path, key: str | None = None) -> tuple[Lineage, str]:
    """The lineage in a file, its signature checked, and the public key that signed it.

    Without `key`, the key that the file names itself: then it is whole, whoever made it. Raises
    CheckpointError when the file holds none, SignatureError when the signature does not hold or is
    not `key`'s.
    """
    try:
        told: Mapping[str, Any] = json.loads(path.read_bytes())
        public, signature = str(told["key"]), str(told["signature"])
        lineage = Lineage.model_validate(told["statement"])
    except FileNotFoundError:
        where, remedy = path.parent, "point at a folder that `gobelin sovereign build` has written"
        raise CheckpointError(f"{where} is no sovereign model: it has no {FILE}", remedy) from None
    except ValidationError as error:
        raise CheckpointError(f"{path}: {explain(Lineage, error)}", REMEDY) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        kind = type(error).__name__
        raise CheckpointError(f"{path} is no lineage ({kind})", REMEDY) from None
    if key is not None and key != public:
        what = f"{path} is signed by {public[:16]}…, not by {key[:16]}…"
        raise SignatureError(what, "ask whoever sent it where it comes from")
    verify(public, PURPOSE, lineage.payload, signature)
    return lineage, public


def region_key(home: Path) -> SigningKey:
    """The region's own key under its `--home`, made there on first use; raises ConfigError."""
    return SigningKey.at(home / KEY_FILE)
