"""Heads as C2SP's signed notes: the reference's own signature, and nothing almost a note."""

from __future__ import annotations

import base64

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from gobelin.shared.errors import LedgerError, SignatureError
from gobelin.shared.ledger import SignedHead, TreeHead, cosign, cosigned_by, origin_of, sign_head
from gobelin.shared.ledger.note import SIGNATURE, key_id
from gobelin.shared.signing import SigningKey, verify_text
from tests.keys import signing_key

# golang.org/x/mod/sumdb/note, its documented example
SECRET = "AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"
PUBLIC = "ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
TEXT = "If you think cryptography is the answer to your problem,\n"
TEXT += "then you don't know what your problem is.\n"
LINE = (
    "x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM="
)
KEY, NODE = signing_key(1), signing_key(2)
HEAD = TreeHead(origin_of("fed"), 3, bytes(range(32)))
NOTE = sign_head(KEY, HEAD).with_lines([cosign(NODE, "north", HEAD, 1_700_000_000)])


def test_signatures_and_key_ids_are_those_of_the_reference() -> None:
    raw = base64.b64decode(SECRET)[1:]
    key = SigningKey(Ed25519PrivateKey.from_private_bytes(raw))
    assert key.public == base64.b64decode(PUBLIC)[1:].hex()
    made = key_id("PeterNeumann", SIGNATURE, key.public) + key.sign_text(TEXT)
    assert base64.b64encode(made).decode() == LINE
    assert verify_text(key.public, TEXT, base64.b64decode(LINE)[4:])
    assert not verify_text(key.public, TEXT + "\n", base64.b64decode(LINE)[4:])


def test_a_text_cannot_be_taken_for_what_is_signed_for_a_purpose() -> None:
    with pytest.raises(ValueError, match="NUL"):
        KEY.sign_text("gobelin:v1:plan\0payload")


def test_a_head_reads_as_it_was_written_and_says_who_signed() -> None:
    text = NOTE.text.split("\n")
    assert text[:4] == ["gobelin/fed", "3", base64.b64encode(bytes(range(32))).decode(), ""]
    assert SignedHead.parse(NOTE.text.encode()) == NOTE
    NOTE.signed_by(KEY.public)
    with pytest.raises(SignatureError):
        NOTE.signed_by(NODE.public)
    line = NOTE.lines[1]
    assert (line.name, line.time) == ("north", 1_700_000_000)
    assert cosigned_by(line, NODE.public, HEAD)
    assert not cosigned_by(line, KEY.public, HEAD)
    assert not cosigned_by(line, NODE.public, TreeHead(HEAD.origin, 4, HEAD.root))


@given(st.integers(0, len(NOTE.text.encode()) - 1), st.integers(0, 7))
def test_no_bit_of_a_head_can_be_flipped_unseen(place: int, bit: int) -> None:
    data = bytearray(NOTE.text.encode())
    data[place] ^= 1 << bit
    try:
        found = SignedHead.parse(bytes(data))
        found.signed_by(KEY.public)
    except (LedgerError, SignatureError):
        return
    assert not all(cosigned_by(line, NODE.public, found.head) for line in found.lines[1:]) or (
        [line.name for line in found.lines[1:]] != ["north"]
    )


@given(st.binary(max_size=300))
def test_no_bytes_crash_the_parser(data: bytes) -> None:
    with pytest.raises(LedgerError):
        SignedHead.parse(data)


def test_who_has_signed_twice_is_refused() -> None:
    twice = NOTE.text + NOTE.lines[1].text
    with pytest.raises(LedgerError):
        SignedHead.parse(twice.encode())
    assert NOTE.with_lines([cosign(NODE, "north", HEAD, 1_800_000_000)]) == NOTE
