"""Addresses are taken as operators write them, or refused with how to write them."""

from __future__ import annotations

import pytest

from gobelin.shared.address import format_address, parse_address
from gobelin.shared.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("127.0.0.1:9092", ("127.0.0.1", 9092)),
        ("aggregator.example:1", ("aggregator.example", 1)),
        ("[::1]:65535", ("::1", 65535)),
        ("[2001:db8::7]:0", ("2001:db8::7", 0)),
    ],
)
def test_an_address_is_read_and_written_back(text: str, parts: tuple[str, int]) -> None:
    assert parse_address(text) == parts
    assert format_address(*parts) == text


@pytest.mark.parametrize(
    "text",
    ["", "host", "host:", ":9092", "host:65536", "host:-1", "host:²", "::1:9092", "[host]:9092",
     "münchen.example:9092", "host:9092x"],
)  # fmt: skip
def test_what_is_no_address_is_refused_with_how_to_write_one(text: str) -> None:
    with pytest.raises(ConfigError, match="write it as host:port"):
        parse_address(text)
