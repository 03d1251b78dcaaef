"""model.sig: the golden one verifies for ever, ours as well as with OpenSSF's own tool."""

from __future__ import annotations

import base64
import json
import shutil
from pathlib import Path

import pytest

from gobelin.shared.errors import ConfigError, ReleaseError
from gobelin.shared.keys import make_key, private_pem
from gobelin.shared.release import ReleaseKey
from gobelin.shared.release.bundle import SIGNATURE, sign_folder, verify_folder
from tests.shared.release.make_golden import FILES, FOLDER, PUBLIC, golden_key


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copytree(FOLDER, tmp_path / "release")
    return tmp_path / "release"


def test_the_golden_bundle_verifies() -> None:
    assert verify_folder(FOLDER, PUBLIC.read_text()) == sorted(FILES)


def test_the_bundle_is_what_the_format_says(folder: Path) -> None:
    bundle = json.loads((folder / SIGNATURE).read_text())
    statement = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
    assert bundle["mediaType"] == "application/vnd.dev.sigstore.bundle.v0.3+json"
    assert bundle["dsseEnvelope"]["payloadType"] == "application/vnd.in-toto+json"
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["predicateType"] == "https://model_signing/signature/v1.0"
    assert [row["name"] for row in statement["predicate"]["resources"]] == sorted(FILES)


def test_every_flipped_bit_and_every_other_file_is_refused(folder: Path) -> None:
    public = PUBLIC.read_text()
    for path in [path for path in folder.rglob("*") if path.is_file()]:
        data = path.read_bytes()
        for place in range(0, len(data), max(1, len(data) // 60)):
            for bit in (0, 3, 7):
                bent = bytearray(data)
                bent[place] ^= 1 << bit
                path.write_bytes(bent)
                with pytest.raises(ReleaseError):
                    verify_folder(folder, public)
        path.write_bytes(data)
    (folder / "more" / "other").write_bytes(b"")
    with pytest.raises(ReleaseError, match="never signed"):
        verify_folder(folder, public)
    (folder / "more" / "other").unlink()
    (folder / "link").symlink_to(folder / "model.safetensors")
    with pytest.raises(ReleaseError, match="link"):
        verify_folder(folder, public)


def test_another_key_is_refused(folder: Path, tmp_path: Path) -> None:
    other = ReleaseKey.at(tmp_path / "release.key")
    assert ReleaseKey.at(tmp_path / "release.key").public == other.public
    assert (tmp_path / "release.key").stat().st_mode & 0o777 == 0o600
    with pytest.raises(ReleaseError):
        verify_folder(folder, other.public)
    (tmp_path / "p384.key").write_bytes(private_pem(make_key()))
    with pytest.raises(ConfigError, match="P-256"):
        ReleaseKey.at(tmp_path / "p384.key")
    with pytest.raises(ReleaseError):
        verify_folder(folder, "no key")


def test_openssfs_own_tool_verifies_it_and_refuses_a_flipped_bit(
    folder: Path, tmp_path: Path
) -> None:
    pytest.importorskip("model_signing", reason="the interop target is not installed")
    import model_signing

    sign_folder(folder, "anew", golden_key())
    for release in (FOLDER, folder):
        config = model_signing.verifying.Config().use_elliptic_key_verifier(public_key=PUBLIC)
        config.verify(release, release / SIGNATURE)
    (folder / "model.safetensors").write_bytes(b"not a modem\n")
    config = model_signing.verifying.Config().use_elliptic_key_verifier(public_key=PUBLIC)
    with pytest.raises(ValueError, match="mismatch"):
        config.verify(folder, folder / SIGNATURE)
