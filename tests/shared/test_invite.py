"""An invite is one line that says everything, and a mistyped one is found before any network."""

from __future__ import annotations

import base64
import contextlib
import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gobelin.shared.errors import InviteError
from gobelin.shared.invite import PREFIX, SECRET_BYTES, Invite, _check, new_secret
from gobelin.shared.keys import public_pem

INVITE = Invite(
    federation="riverside",
    member="library",
    service="aggregator.example:9093",
    fleet="aggregator.example:9092",
    ca_pin="ab" * 32,
    federation_digest="cd" * 32,
    secret=bytes(range(SECRET_BYTES)),
    expires=2_000_000_000,
)


def test_an_invite_is_its_text_however_it_was_wrapped() -> None:
    text = INVITE.text()
    assert Invite.parse(text) == INVITE
    wrapped = "\n  ".join(text[i : i + 40] for i in range(0, len(text), 40))
    assert Invite.parse(f" {wrapped}\n") == INVITE
    assert len(text) < 300
    assert text.isascii()


@given(st.data())
def test_one_changed_character_is_found(data: st.DataObject) -> None:
    text = INVITE.text()
    place = data.draw(st.integers(0, len(text) - 1))
    other = data.draw(st.characters(min_codepoint=33, max_codepoint=126))
    if other != text[place]:
        with pytest.raises(InviteError):
            Invite.parse(text[:place] + other + text[place + 1 :])


@given(st.integers(0, len(INVITE.text()) - 1))
def test_an_invite_that_was_cut_off_is_found(length: int) -> None:
    with pytest.raises(InviteError):
        Invite.parse(INVITE.text()[:length])


@given(st.one_of(st.text(), st.binary().map(lambda b: PREFIX + base64.b64encode(b).decode())))
def test_no_text_does_anything_but_be_refused(text: str) -> None:
    with pytest.raises(InviteError):
        Invite.parse(text)


@given(st.binary(max_size=300))
def test_bytes_with_a_right_checksum_are_an_invite_or_refused(body: bytes) -> None:
    text = PREFIX + base64.urlsafe_b64encode(body + _check(body)).decode().rstrip("=")
    with contextlib.suppress(InviteError):
        assert Invite.parse(text).service


def test_the_secret_is_in_no_repr_and_stands_for_one_key() -> None:
    assert INVITE.secret.hex() not in repr(INVITE)
    assert str(list(INVITE.secret)) not in repr(INVITE)
    other = dataclasses.replace(INVITE, secret=new_secret())
    assert public_pem(INVITE.key.public_key()) == public_pem(INVITE.key.public_key())
    assert other.id != INVITE.id
    assert 8 * SECRET_BYTES >= 128


def test_an_expired_invite_says_since_when() -> None:
    INVITE.require_fresh(INVITE.expires - 1)
    with pytest.raises(InviteError, match="expired 3 h ago") as caught:
        INVITE.require_fresh(INVITE.expires + 3 * 3600)
    assert caught.value.exit_code == 43
