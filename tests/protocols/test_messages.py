"""Messages have one byte form, and whatever else arrives is refused by one error."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import typing
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gobelin.protocols.messages import (
    MAX_BYTES,
    Contribution,
    Farewell,
    MalformedMessageError,
    Message,
    Receipt,
    RoundPlan,
    Step,
)

PLAN = RoundPlan(
    *("fed", 3, 9, '{"name":"toy"}', "s" * 64, "b" * 64, 500, 7, 3600.0),
    cross_node=True,
    moments_digest="m" * 64,
)
CONTRIBUTION = Contribution("fed", 3, "p" * 64, "b" * 64, "d" * 64, 500, 64, 1.5, {"loss": 0.25})
FAREWELL = Farewell("fed", 9, "v" * 64)
STEP = Step(3, "b" * 64, "int8")
RECEIPT = Receipt("fed", 3, "d" * 64, True, "", 0.25)
LEFT_OUT = {"rollbacks"}  # while it says what its absence does
EXAMPLES: list[Message] = [PLAN, CONTRIBUTION, FAREWELL, STEP, RECEIPT]

ASCII = st.characters(codec="ascii")
TEXTS = st.text(ASCII, max_size=40)
COUNTS = st.integers(0, (1 << 63) - 1)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
METRICS = st.dictionaries(st.text(ASCII, max_size=12), NUMBERS, max_size=5)


def messages() -> st.SearchStrategy[Message]:
    plans = st.builds(
        RoundPlan,
        *(TEXTS, COUNTS, COUNTS, TEXTS, TEXTS, TEXTS, COUNTS, COUNTS, NUMBERS),
        cross_node=st.booleans(),
        moments_digest=TEXTS,
    )
    contributions = st.builds(
        Contribution, TEXTS, COUNTS, TEXTS, TEXTS, TEXTS, COUNTS, COUNTS, NUMBERS, METRICS
    )
    receipts = st.builds(Receipt, TEXTS, COUNTS, TEXTS, st.booleans(), TEXTS, NUMBERS)
    steps = st.builds(Step, COUNTS, TEXTS, TEXTS)
    farewells = st.builds(Farewell, TEXTS, COUNTS, TEXTS)
    return st.one_of(plans, contributions, receipts, steps, farewells)


def fields(message: Message) -> list[str]:
    return [field.name for field in dataclasses.fields(message)]


def altered(message: Message, **changes: Any) -> bytes:
    """The message's JSON with raw values put in, whatever their type."""
    return json.dumps({**json.loads(message.to_bytes()), **changes}).encode()


CASES = [(message, name) for message in EXAMPLES for name in fields(message)]
each_message = pytest.mark.parametrize("message", EXAMPLES, ids=lambda m: type(m).__name__)
each_field = pytest.mark.parametrize(
    ("message", "name"), CASES, ids=[f"{type(m).__name__}.{n}" for m, n in CASES]
)


@given(messages())
def test_a_message_survives_its_bytes(message: Message) -> None:
    data = message.to_bytes()
    again = type(message).from_bytes(data)
    assert again == message
    assert again.to_bytes() == data
    assert again.digest == message.digest


@each_message
def test_the_byte_form_is_sorted_json_without_whitespace_and_the_digest_its_sha256(
    message: Message,
) -> None:
    values = {"kind": type(message).__name__, **vars(message)}
    values = {name: value for name, value in values.items() if name not in LEFT_OUT}
    data = json.dumps(values, sort_keys=True, separators=(",", ":")).encode()
    assert message.to_bytes() == data
    assert message.digest == hashlib.sha256(data).hexdigest()


def test_the_order_of_metrics_does_not_change_the_digest() -> None:
    forth = dataclasses.replace(CONTRIBUTION, metrics={"a": 1.0, "b": 2.0})
    back = dataclasses.replace(CONTRIBUTION, metrics={"b": 2.0, "a": 1.0})
    assert forth.digest == back.digest


@each_field
def test_every_field_changes_the_digest(message: Message, name: str) -> None:
    old = getattr(message, name)
    new: Any = {"loss": 0.5} if isinstance(old, dict) else old + type(old)(1)
    new = not old if isinstance(old, bool) else new
    assert dataclasses.replace(message, **{name: new}).digest != message.digest


def test_two_kinds_with_like_values_have_different_digests() -> None:
    assert len({message.digest for message in EXAMPLES}) == len(EXAMPLES)


@each_field
def test_a_missing_field_is_refused(message: Message, name: str) -> None:
    values = json.loads(message.to_bytes())
    values.pop(name, None)  # left out already, or not
    with pytest.raises(MalformedMessageError):
        type(message).from_bytes(json.dumps(values).encode())


@each_message
def test_a_field_too_many_is_refused(message: Message) -> None:
    with pytest.raises(MalformedMessageError, match="fields"):
        type(message).from_bytes(altered(message, quality=100))


@each_message
def test_another_kind_of_message_is_refused(message: Message) -> None:
    for other in EXAMPLES:
        if other is not message:
            with pytest.raises(MalformedMessageError, match="not a"):
                type(message).from_bytes(other.to_bytes())
            with pytest.raises(MalformedMessageError):
                type(message).from_bytes(altered(message, kind=type(other).__name__))


WRONG: dict[Any, list[Any]] = {
    str: [1, 1.5, True, None, [], {}],
    bool: [0, 1, "true", None, [], {}],
    int: [-1, 1 << 63, True, False, 1.0, "1", None, [], {}],
    float: [True, "1.5", None, [], {}, 1 << 53, -(1 << 2000)],
    dict: [1, "loss", None, [], {"loss": True}, {"loss": "1"}, {"loss": None}, {"loss": {}}],
}


@each_field
def test_values_of_another_type_or_out_of_range_are_refused(message: Message, name: str) -> None:
    kind = typing.get_type_hints(type(message))[name]
    for value in WRONG[kind if kind in WRONG else dict]:
        with pytest.raises(MalformedMessageError, match=r"is not|out of range"):
            type(message).from_bytes(altered(message, **{name: value}))


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999"])
def test_numbers_that_are_not_finite_are_refused(number: str) -> None:
    for old in (b'"seconds":1.5', b'"loss":0.25'):
        assert old in CONTRIBUTION.to_bytes()
        data = CONTRIBUTION.to_bytes().replace(old, old.partition(b":")[0] + b":" + number.encode())
        with pytest.raises(MalformedMessageError):
            Contribution.from_bytes(data)


def test_a_message_that_is_not_finite_cannot_be_sent() -> None:
    with pytest.raises(ValueError, match="JSON"):
        dataclasses.replace(CONTRIBUTION, seconds=float("nan")).to_bytes()


def test_a_number_of_a_hundred_thousand_digits_is_refused() -> None:
    data = FAREWELL.to_bytes().replace(b'"rounds":9', b'"rounds":' + b"9" * 100_000)
    with pytest.raises(MalformedMessageError):
        Farewell.from_bytes(data)


@pytest.mark.parametrize("opening", [b"[", b'{"a":'], ids=["lists", "tables"])
def test_deep_nesting_is_refused(opening: bytes) -> None:
    with pytest.raises(MalformedMessageError):
        RoundPlan.from_bytes(opening * (MAX_BYTES // len(opening)))


def test_a_message_may_have_max_bytes_and_not_one_more() -> None:
    room = MAX_BYTES - len(dataclasses.replace(PLAN, recipe="").to_bytes())
    largest = dataclasses.replace(PLAN, recipe="x" * room)
    assert len(largest.to_bytes()) == MAX_BYTES
    assert RoundPlan.from_bytes(largest.to_bytes()) == largest
    with pytest.raises(MalformedMessageError, match="at most"):
        RoundPlan.from_bytes(dataclasses.replace(PLAN, recipe="x" * (room + 1)).to_bytes())


@given(st.binary(max_size=300), st.sampled_from(EXAMPLES))
@example(b"", PLAN)
@example(b"null", PLAN)
@example(b"[]", PLAN)
@example(b"\xff\xfe\x00", PLAN)
@example(b'"\\ud800"', PLAN)
def test_random_bytes_are_refused(data: bytes, message: Message) -> None:
    with pytest.raises(MalformedMessageError):
        type(message).from_bytes(data)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=8,
)


@given(st.sampled_from(CASES), JSON)
def test_any_json_in_any_field_gives_a_message_or_one_error(
    case: tuple[Message, str], value: Any
) -> None:
    message, name = case
    try:
        parsed = type(message).from_bytes(altered(message, **{name: value}))
    except MalformedMessageError:
        return
    assert getattr(parsed, name) == value
    assert type(message).from_bytes(parsed.to_bytes()) == parsed


def test_an_error_never_quotes_what_was_sent() -> None:
    with pytest.raises(MalformedMessageError) as caught:
        Farewell.from_bytes(altered(FAREWELL, rounds="patient 4711"))
    assert "4711" not in str(caught.value)


@pytest.mark.parametrize(
    "data",
    [
        json.dumps(json.loads(FAREWELL.to_bytes()), indent=1).encode(),
        FAREWELL.to_bytes().decode().encode("utf-16"),
        FAREWELL.to_bytes().replace(b"{", b'{"rounds":1,', 1),
    ],
    ids=["whitespace", "utf-16", "a key twice"],
)
def test_bytes_that_are_not_canonical_are_refused(data: bytes) -> None:
    with pytest.raises(MalformedMessageError):
        Farewell.from_bytes(data)
