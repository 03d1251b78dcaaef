"""Bundles: what goes in comes out, and what is no bundle is refused."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gobelin.protocols import bundle
from gobelin.protocols.bundle import BUNDLE, ENCODING_BUNDLE, SMALL, WireArray, bundled, unbundled
from gobelin.protocols.messages import BYTES, MalformedMessageError


def array(data: bytes) -> WireArray:
    return WireArray("float32", (len(data), 1), "gobelin.int4", data)


def arrays(*sizes: int) -> dict[str, WireArray]:
    return {f"{i:012d}": array(bytes([i]) * size) for i, size in enumerate(sizes)}


@given(st.dictionaries(st.text(max_size=5), st.binary(max_size=40).map(array), max_size=8))
def test_what_is_bundled_comes_out_as_it_was(given: dict[str, WireArray]) -> None:
    assert unbundled(bundled(given)) == given


def test_small_arrays_travel_together_and_large_ones_as_they_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bundle, "SMALL", 10)
    monkeypatch.setattr(bundle, "BUNDLE", 25)
    given = arrays(10, 10, 10, 11, 3, 4)
    packed = bundled(given)
    names = list(given)
    assert list(packed) == [names[0], names[3], names[2]]
    assert packed[names[3]] is given[names[3]]
    assert unbundled(packed) == given
    assert sum(len(one.data) for one in packed.values()) < 48 + 2 * 200


def test_a_lone_array_is_no_bundle() -> None:
    given = arrays(5)
    assert bundled(given) == given
    assert SMALL < BUNDLE


def packed(rows: object, data: bytes = b"abcd") -> dict[str, WireArray]:
    content = json.dumps(rows).encode() + b"\n" + data
    return {"a": WireArray(BYTES, (len(content),), ENCODING_BUNDLE, content)}


ROW = ["a", "float32", [1], "gobelin.int4", 4]


def test_a_bundle_by_hand_is_read() -> None:
    assert unbundled(packed([ROW])) == {"a": WireArray("float32", (1,), "gobelin.int4", b"abcd")}


@pytest.mark.parametrize(
    "wrong",
    [
        packed({}),
        packed([]),
        packed([ROW], b"abc"),
        packed([ROW], b"abcde"),
        packed([ROW, [*ROW[:4], 0]]),
        packed([["a", "b", [1], "c", -4]]),
        packed([["a", "b", [1], "c", True]]),
        packed([["a", "b", [1.0], "c", 4]]),
        packed([["a", "b", 1, "c", 4]]),
        packed([[1, "b", [1], "c", 4]]),
        packed([["a", "b", [1], "c"]]),
        packed(4),
        {"a": WireArray(BYTES, (0,), ENCODING_BUNDLE, b"")},
        {"a": WireArray(BYTES, (3,), ENCODING_BUNDLE, b"\xff\xff\n")},
        {"a": WireArray(BYTES, (99_999,), ENCODING_BUNDLE, b"[" * 99_999 + b"\n")},
        {**packed([ROW]), "b": packed([ROW])["a"]},
    ],
)
def test_what_is_no_bundle_is_refused(wrong: dict[str, WireArray]) -> None:
    with pytest.raises(MalformedMessageError):
        unbundled(wrong)
