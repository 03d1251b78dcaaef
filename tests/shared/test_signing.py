"""What one key signed for one purpose passes for nothing else."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gobelin.shared.errors import ConfigError, SignatureError
from gobelin.shared.keys import make_key, parse_public_key, private_pem, public_pem
from gobelin.shared.signing import SigningKey, find_signing_key, public_signing_pem, verify
from tests.beside import Beside

KEY, OTHER = SigningKey.generate(), SigningKey.generate()


@given(st.binary(max_size=64), st.binary(max_size=64))
def test_only_what_was_signed_verifies(payload: bytes, other: bytes) -> None:
    signature = KEY.sign("plan", payload)
    verify(KEY.public, "plan", payload, signature)
    if other != payload:
        with pytest.raises(SignatureError):
            verify(KEY.public, "plan", other, signature)


def test_a_signature_is_bound_to_its_purpose_and_key() -> None:
    signature = KEY.sign("plan", b"payload")
    for public, purpose in ((OTHER.public, "plan"), (KEY.public, "head"), (KEY.public, "pla")):
        with pytest.raises(SignatureError):
            verify(public, purpose, b"payload", signature)


def test_purpose_and_payload_do_not_run_into_each_other() -> None:
    with pytest.raises(SignatureError):
        verify(KEY.public, "pla", b"n\0payload", KEY.sign("pla\0n", b"payload"[:0]))


@pytest.mark.parametrize("junk", ["", "zz", "00", "0" * 128, "é" * 64])
def test_junk_is_no_signature_and_no_key(junk: str) -> None:
    with pytest.raises(SignatureError):
        verify(KEY.public, "plan", b"", junk)
    with pytest.raises(SignatureError):
        verify(junk, "plan", b"", KEY.sign("plan", b""))


def test_a_key_is_private_and_comes_back_from_its_file(tmp_path: Path) -> None:
    KEY.write(tmp_path / "signing.key")
    assert (tmp_path / "signing.key").stat().st_mode & 0o777 == 0o600
    assert SigningKey.load(tmp_path / "signing.key").public == KEY.public


def test_a_file_without_a_signing_key_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other.key").write_bytes(private_pem(make_key()))
    (tmp_path / "junk.key").write_bytes(b"junk")
    for name in ("other.key", "junk.key", "gone.key"):
        with pytest.raises(ConfigError, match=name):
            SigningKey.load(tmp_path / name)


def test_a_public_key_is_found_behind_other_blocks() -> None:
    elliptic = public_pem(make_key().public_key())
    assert find_signing_key(elliptic + public_signing_pem(KEY.public), "here") == KEY.public
    for pem in (b"", elliptic, b"-----BEGIN PUBLIC KEY-----\njunk"):
        with pytest.raises(ConfigError, match="here"):
            find_signing_key(pem, "here")


def test_a_signature_has_one_spelling() -> None:
    """Else what was signed once would be many different texts that all verify."""
    signature = KEY.sign("plan", b"payload")
    spaced = f"{signature[:2]} {signature[2:]}"
    for other in (spaced, signature + "\n", f"\t{signature}", signature.upper(), signature + "00"):
        with pytest.raises(SignatureError):
            verify(KEY.public, "plan", b"payload", other)


def test_a_key_of_a_curve_that_nobody_knows_is_none() -> None:
    curve = bytes.fromhex("2b81040022")  # secp384r1's object identifier
    der = base64.b64decode("".join(public_pem(make_key().public_key()).decode().split("\n")[1:-2]))
    assert curve in der
    unknown = base64.encodebytes(der.replace(curve, bytes.fromhex("2b81040002")))
    pem = b"-----BEGIN PUBLIC KEY-----\n" + unknown + b"-----END PUBLIC KEY-----\n"
    with pytest.raises(ConfigError, match="no signing key"):
        find_signing_key(pem, "node.pub")
    with pytest.raises(ConfigError, match="no public key"):
        parse_public_key(pem, "node.pub")


def test_two_who_make_a_key_at_once_have_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else what one of them signs is signed by a key that is nowhere."""
    other, generate = Beside(lambda: SigningKey.at(tmp_path / "region.key")), SigningKey.generate

    def slowly() -> SigningKey:
        other.step()
        return generate()

    monkeypatch.setattr(SigningKey, "generate", slowly)
    ours = SigningKey.at(tmp_path / "region.key")
    assert other.end().public == ours.public == SigningKey.load(tmp_path / "region.key").public
