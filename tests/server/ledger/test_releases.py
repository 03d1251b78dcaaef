"""Releases: signed, whole, never older than what was accepted."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from gobelin.client.accept import accept_path
from gobelin.server.cli import app
from gobelin.server.home import AggregatorHome
from gobelin.server.ledger import RoundLedger
from gobelin.server.publisher import Publisher
from gobelin.shared.checkpoint import file_digest, read_checkpoint
from gobelin.shared.errors import (
    ConfigError,
    ReleaseError,
    SignatureError,
    StaleError,
    StateError,
    TwoHistoriesError,
)
from gobelin.shared.files import folder_atomic, read_json, write_json
from gobelin.shared.keys import fingerprint
from gobelin.shared.release import Watch, verify_release
from gobelin.shared.release.evidence import LEAKAGE, read_evidence
from gobelin.shared.signing import SigningKey
from tests.keys import signing_key
from tests.server.ledger.witness import (
    Witness,
    ca,
    verify,
)
from tests.vanishing import vanishing


def test_a_release_says_who_made_it_and_holds(home: AggregatorHome) -> None:
    folder = home.releases / "release-00004"
    told = verify(folder, "--key", ca(home))
    assert (told["kind"], told["round"]) == ("release", 4)
    files = ["bom.cdx.json", "manifest.json", "model.safetensors", "model_card.md"]
    assert told["files"] == [*files, "release.json", "release.pub"]
    assert read_checkpoint(folder).vector.digest == told["vector_digest"]
    bom = json.loads((folder / "bom.cdx.json").read_text())
    (component,) = bom["components"]
    properties = {p["name"]: p["value"] for p in component["properties"]}
    assert (bom["bomFormat"], bom["specVersion"]) == ("CycloneDX", "1.6")
    assert properties["gobelin:vector_digest"] == told["vector_digest"]
    assert properties["gobelin:weight:north:4"] == "0.5"
    card = (folder / "model_card.md").read_text()
    assert "| north | 4 | " in card
    assert told["vector_digest"] in card


def test_no_bit_of_a_release_can_be_flipped(home: AggregatorHome) -> None:
    folder, key = home.releases / "release-00004", home.signing_key().public
    verify_release(folder, key)
    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        for place in {0, len(data) // 3, len(data) // 2, len(data) - 2, len(data) - 1}:
            bent = bytearray(data)
            bent[place] ^= 1
            path.write_bytes(bent)
            with pytest.raises((ReleaseError, SignatureError)):
                verify_release(folder, key)
        path.unlink()
        with pytest.raises(ReleaseError):
            verify_release(folder, key)
        path.write_bytes(data)
    (folder / "more.bin").write_bytes(b"")
    with pytest.raises(ReleaseError, match="never signed"):
        verify_release(folder, key)
    (folder / "more.bin").unlink()
    with pytest.raises(SignatureError):
        verify_release(folder, signing_key(3).public)
    verify_release(folder, key)


def test_a_release_of_the_same_key_and_another_ledger_is_refused(home: AggregatorHome) -> None:
    """The files of one release, with the statement of the other."""
    one, other = (home.releases / f"release-0000{n}" for n in (2, 4))
    with folder_atomic(home.folder / "mixed") as tmp:
        shutil.copytree(one, tmp, dirs_exist_ok=True)
        shutil.copyfile(other / "release.json", tmp / "release.json")
    with pytest.raises(ReleaseError):
        verify_release(home.folder / "mixed", home.signing_key().public)


def test_older_and_expired_releases_are_refused_after_a_newer_one(
    home: AggregatorHome, node: Witness, tmp_path: Path
) -> None:
    old, new = (home.releases / f"release-0000{n}" for n in (2, 4))
    accept_path(node.home, old)
    accept_path(node.home, new)
    accept_path(node.home, new)
    with pytest.raises(StaleError, match="older") as told:
        accept_path(node.home, old)
    assert told.value.exit_code == 42
    statement = verify_release(new, node.home.aggregator_key()).statement
    day = 86_400
    assert statement.expires - statement.issued == 90 * day
    with pytest.raises(StaleError, match="its time is over"):
        Watch(tmp_path / "w", lambda: statement.expires + day).take(statement)
    with pytest.raises(StaleError, match="future"):
        Watch(tmp_path / "w", lambda: statement.issued - day).take(statement)
    other = dataclasses.replace(statement, vector_digest="0" * 64)
    with pytest.raises(TwoHistoriesError, match="two histories"):
        Watch(node.home.newest_file).take(other)
    with pytest.raises(StateError):
        Watch(node.home.newest_file).take(dataclasses.replace(statement, federation="other"))


def test_a_nodes_key_is_the_rosters(node: Witness) -> None:
    assert SigningKey.load(node.home.signing_key_file).public == node.entry.signing_key
    assert fingerprint(node.entry.public_key.encode()) == node.id


def audited(home: AggregatorHome, **changes: Any) -> dict[str, Any]:
    """What `gobelin audit leakage --out` writes."""
    scores = {"loss": {"auc": 0.51, "tpr": 0.01}, "drop": {"auc": 0.56, "tpr": 0.02}}
    inversion = {"over_mean_db": -0.66, "best_over_mean_db": -0.2}
    setting = {"local_steps": 500, "batch_size": 64, "inversion": inversion}
    return {
        "format": LEAKAGE,
        "recipe_digest": home.recipe().digest,
        "base_digest": "b" * 64,
        "samples": 512,
        "codec": "int4",
        "privacy": "no DP: empirical leakage only",
        "conclusive": True,
        "control": {"psnr_db": 25.5},
        "settings": [{**setting, "membership": scores, "canaries": None}],
        **changes,
    }


def published_again(home: AggregatorHome) -> Path:
    """The last release: a kill may have left it unpublished, and the next start publishes it."""
    folder = home.releases / "release-00004"
    shutil.rmtree(folder)
    ledger = RoundLedger(home, lambda *_: None)
    ledger.mend()
    last = read_checkpoint(sorted(home.rounds.glob("round-*"))[-1])
    Publisher(home, ledger, lambda *_: None).release(4, last.vector, last.facts)
    return folder


def test_what_updates_leak_is_published_with_the_next_release(
    home: AggregatorHome, tmp_path: Path
) -> None:
    write_json(tmp_path / "audit.json", audited(home))
    told = ["evidence", str(tmp_path / "audit.json"), "--home", str(home.folder)]
    assert CliRunner().invoke(app, told).exit_code == 0
    folder = published_again(home)
    assert "leakage.json" in verify(folder, "--key", ca(home))["files"]
    assert read_json(folder / "leakage.json") == audited(home)
    card = (folder / "model_card.md").read_text()
    assert "25.5 dB: it succeeds" in card
    assert "| 500 | 64 | -0.66 | 0.56 | – |" in card
    bom = read_json(folder / "bom.cdx.json")
    properties = {p["name"]: p["value"] for p in bom["components"][0]["properties"]}
    assert properties["gobelin:evidence:leakage.json"] == file_digest(folder / "leakage.json")
    data = (folder / "leakage.json").read_bytes()
    (folder / "leakage.json").write_bytes(data.replace(b"-0.66", b"-9.66"))
    with pytest.raises(ReleaseError, match=r"leakage\.json is not as it was signed"):
        verify_release(folder, home.signing_key().public)


def test_evidence_that_is_removed_while_a_release_is_made_is_not_in_it(
    home: AggregatorHome,
) -> None:
    home.evidence.mkdir()
    write_json(home.evidence / "leakage.json", audited(home))
    with vanishing(home.evidence / "leakage.json"):
        folder = published_again(home)
    assert "leakage.json" not in verify(folder, "--key", ca(home))["files"]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"recipe_digest": "0" * 64}, "another recipe"),
        ({"format": "gobelin.other"}, "no evidence"),
        ({"settings": [{}]}, "no evidence"),
        ({"settings": [{"local_steps": "many", "batch_size": 1}]}, "no evidence"),
        ({"control": {}}, "no evidence"),
    ],
)
def test_what_is_no_evidence_is_not_published(
    home: AggregatorHome, tmp_path: Path, changes: dict[str, Any], why: str
) -> None:
    write_json(tmp_path / "audit.json", audited(home, **changes))
    with pytest.raises(ConfigError, match=why):
        read_evidence(tmp_path / "audit.json", home.recipe().digest)
    assert not home.evidence.exists()
