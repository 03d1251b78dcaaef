"""Moments are admitted when the plan asks for them and they could be those of some data."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gobelin.protocols.bundle import WireArray
from gobelin.protocols.messages import BYTES, ENCODING, ENCODING_MOMENTS, Contribution, RoundPlan
from gobelin.server.admission import Admitted, Refusal, admit
from gobelin.shared.objective import Moments
from gobelin.shared.objective.moments import digest_of, size_of
from gobelin.shared.vector import DTYPE, ParameterSchema, ParameterVector
from tests.answers import wired

DIM = 3
SCHEMA = ParameterSchema.of_shapes({"a": (2, 3)})
DELTA = ParameterVector(SCHEMA, torch.arange(6.0))
PLAN = RoundPlan("fed", 2, 9, "{}", SCHEMA.digest, "b" * 64, 5, 7, 60.0, cross_node=True)
SEEN = Moments.of(torch.randn(40, DIM, generator=torch.Generator().manual_seed(0)))


def wire(data: bytes) -> WireArray:
    return WireArray(BYTES, (len(data),), ENCODING_MOMENTS, data)


def judged(
    moments: WireArray | None, named: str | None = None, plan: RoundPlan = PLAN
) -> Admitted | Refusal:
    """What admission makes of a sound delta with these moments; their digest is the named one."""
    named = digest_of(moments.data if moments else b"") if named is None else named
    header = Contribution(
        *("fed", 2, plan.digest, plan.base_digest, DELTA.digest, 5, 80, 1.0), moments_digest=named
    )
    arrays = wired(DELTA.segments())
    return admit(plan, {"": SCHEMA}, DIM, header.to_bytes(), arrays, moments)


def reason(outcome: Admitted | Refusal) -> str:
    assert isinstance(outcome, Refusal)
    assert 0 < len(outcome.found) < 120
    return outcome.reason


def test_moments_that_were_asked_for_are_admitted() -> None:
    outcome = judged(wire(SEEN.to_bytes()))
    assert isinstance(outcome, Admitted)
    assert outcome.moments is not None
    assert outcome.moments.digest == SEEN.digest


def test_a_node_that_declines_is_admitted() -> None:
    outcome = judged(None)
    assert isinstance(outcome, Admitted)
    assert outcome.moments is None


def test_moments_nobody_asked_for_are_refused() -> None:
    quiet = replace(PLAN, cross_node=False)
    assert reason(judged(wire(SEEN.to_bytes()), plan=quiet)) == "moments_unasked"
    assert isinstance(judged(None, plan=quiet), Admitted)


@pytest.mark.parametrize("named", ["", "0" * 64, "x" * 5000])
def test_moments_the_header_does_not_name_are_refused(named: str) -> None:
    assert reason(judged(wire(SEEN.to_bytes()), named)) == "moments_digest"


def test_moments_the_header_names_must_be_there() -> None:
    assert reason(judged(None, SEEN.digest)) == "moments_digest"


@pytest.mark.parametrize(
    "change",
    [
        {"dtype": DTYPE},
        {"dtype": "x" * 1000},
        {"encoding": ENCODING},
        {"shape": ()},
        {"shape": (size_of(DIM) + 1,)},
        {"shape": (2, size_of(DIM) // 2)},
        {"data": b""},
        {"data": SEEN.to_bytes() + b"\0"},
    ],
    ids=str,
)
def test_another_kind_of_array_is_refused(change: dict[str, object]) -> None:
    assert reason(judged(wire(SEEN.to_bytes())._replace(**change), SEEN.digest)) == "moments"


def test_moments_of_another_projector_are_refused() -> None:
    other = Moments.of(torch.randn(40, DIM + 1, generator=torch.Generator().manual_seed(0)))
    assert reason(judged(wire(other.to_bytes()))) == "moments"


def number(at: int, value: float) -> Callable[[bytes], bytes]:
    """Moments with another fp32 number, counted from the mean's first."""
    at = 8 + 4 * at
    return lambda data: data[:at] + struct.pack("<f", value) + data[at + 4 :]


@pytest.mark.parametrize(
    "spoil",
    [
        *(number(at, value) for at in (0, DIM) for value in (float("nan"), float("inf"), 3e38)),
        number(0, -50.0),  # a mean that no second moment allows
        number(DIM, -1.0),  # a negative second moment
        number(DIM, 28.0),  # beyond RADII² · D
        number(DIM + 1, 5.0),  # a correlation above 1
        lambda data: bytes(8) + data[8:],  # of no samples
        lambda data: b"\xff" * 8 + data[8:],
    ],
)
def test_hostile_moments_are_refused(spoil: Callable[[bytes], bytes]) -> None:
    assert reason(judged(wire(spoil(SEEN.to_bytes())))) == "moments"


@given(st.binary(min_size=size_of(DIM), max_size=size_of(DIM)))
def test_whatever_is_admitted_keeps_its_bytes(data: bytes) -> None:
    outcome = judged(wire(data))
    if isinstance(outcome, Refusal):
        assert outcome.reason == "moments"
    else:
        assert outcome.moments is not None
        assert outcome.moments.to_bytes() == data
