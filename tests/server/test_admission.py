"""Only a reply to this very plan, with finite numbers of the schema's form, is admitted."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gobelin.protocols.bundle import WireArray
from gobelin.protocols.messages import ENCODING, Contribution, RoundPlan
from gobelin.server.admission import Admitted, Refusal, admit
from gobelin.server.aggregation import LIMIT
from gobelin.shared import vector as vector_module
from gobelin.shared.vector import DTYPE, ParameterSchema, ParameterVector
from tests.answers import wired

SCHEMA = ParameterSchema.of_shapes({"a": (2, 3), "b": (4,), "c": ()})
BASE = ParameterVector.zeros(SCHEMA)
DIM = 3
PLAN = RoundPlan("fed", 2, 9, "{}", SCHEMA.digest, BASE.digest, 5, 7, 60.0)

Arrays = dict[str, WireArray]


@pytest.fixture(autouse=True, scope="module")
def small_segments() -> Iterator[None]:
    """Three segments, of 4, 4 and 3 scalars; a schema keeps the ones it was asked for first."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vector_module, "SEGMENT", 4)
        assert len(SCHEMA.segments) == 3
        yield


def delta_of(values: list[float] | None = None) -> ParameterVector:
    return ParameterVector(SCHEMA, torch.tensor(values or [0.5 * i for i in range(SCHEMA.size)]))


def header_of(delta: ParameterVector, **changes: object) -> Contribution:
    made = Contribution("fed", 2, PLAN.digest, BASE.digest, delta.digest, 5, 16, 1.0, {"loss": 1.0})
    return dataclasses.replace(made, **changes)


def judged(header: bytes, arrays: Arrays, plan: RoundPlan = PLAN) -> Admitted | Refusal:
    return admit(plan, {"": SCHEMA}, DIM, header, arrays, batch=16)


def reason(outcome: Admitted | Refusal) -> str:
    assert isinstance(outcome, Refusal)
    assert outcome.found
    return outcome.reason


def test_a_reply_to_the_plan_is_admitted() -> None:
    delta = delta_of()
    header = header_of(delta)
    outcome = judged(header.to_bytes(), wired(delta.segments()))
    assert isinstance(outcome, Admitted)
    assert outcome.contribution == header
    assert torch.equal(outcome.delta.values, delta.values)


def test_segments_may_arrive_in_any_order() -> None:
    delta = delta_of()
    assert len(delta.segments()) == 3
    arrays = dict(reversed(wired(delta.segments()).items()))
    assert isinstance(judged(header_of(delta).to_bytes(), arrays), Admitted)


@pytest.mark.parametrize(
    "claim",
    [
        {"samples": 1 << 62},
        {"samples": 81},
        {"seconds": -1e300},
        {"metrics": {"weight": 1e9}},
        {"metrics": {"loss": 1.0, "score": 1.0}},
        {"metrics": {"premium_probe": 100.1}},
        {"metrics": {"premium_identification": 1.0, "premium_seen": 1.1}},
    ],
)
def test_what_a_member_cannot_say_of_itself_is_refused(claim: dict[str, object]) -> None:
    delta = delta_of()
    header = header_of(delta, **claim)
    assert reason(judged(header.to_bytes(), wired(delta.segments()))) == "claims"


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"federation": "other"}, "federation"),
        ({"round": 1}, "round"),
        ({"round": 3}, "round"),
        ({"base_digest": "0" * 64}, "base_digest"),
        ({"plan_digest": "0" * 64}, "plan_digest"),
        ({"plan_digest": dataclasses.replace(PLAN, seed=8).digest}, "plan_digest"),
        ({"local_steps": 6}, "local_steps"),
        ({"local_steps": 0}, "local_steps"),
        ({"delta_digest": "0" * 64}, "delta_digest"),
        ({"delta_digest": ""}, "delta_digest"),
    ],
)
def test_a_header_that_does_not_answer_the_plan_is_refused(
    changes: dict[str, object], code: str
) -> None:
    delta = delta_of()
    outcome = judged(header_of(delta, **changes).to_bytes(), wired(delta.segments()))
    assert reason(outcome) == code


@pytest.mark.parametrize("steps", [1, 4, 5])
def test_a_node_short_of_time_may_have_taken_fewer_steps(steps: int) -> None:
    delta = delta_of()
    header = header_of(delta, local_steps=steps)
    assert isinstance(judged(header.to_bytes(), wired(delta.segments())), Admitted)


def test_in_a_warmup_round_there_is_one_local_step() -> None:
    delta, warm = delta_of(), dataclasses.replace(PLAN, warmup_rounds=PLAN.round)
    one = header_of(delta, local_steps=1, plan_digest=warm.digest)
    more = header_of(delta, local_steps=2, plan_digest=warm.digest)
    arrays = wired(delta.segments())
    assert isinstance(judged(one.to_bytes(), arrays, warm), Admitted)
    assert reason(judged(more.to_bytes(), arrays, warm)) == "local_steps"


@pytest.mark.parametrize("data", [b"", b"{}", b"null", b"\xff" * 40, PLAN.to_bytes()])
def test_a_malformed_header_is_refused(data: bytes) -> None:
    assert reason(judged(data, wired(delta_of().segments()))) == "malformed"


def test_a_header_with_a_number_that_is_not_finite_is_malformed() -> None:
    values = {**json.loads(header_of(delta_of()).to_bytes()), "metrics": {"loss": float("nan")}}
    outcome = judged(json.dumps(values).encode(), wired(delta_of().segments()))
    assert reason(outcome) == "malformed"


@given(st.binary(max_size=200))
def test_random_bytes_for_a_header_are_malformed(data: bytes) -> None:
    assert reason(judged(data, {})) == "malformed"


def poisoned(value: float, place: int) -> tuple[bytes, Arrays]:
    """A reply whose numbers, digest and all, are what a hostile member would send."""
    values = np.zeros(SCHEMA.size, dtype="<f4")
    values[place] = value
    data = values.tobytes()
    segments = {k: data[4 * s : 4 * e] for k, (s, e) in SCHEMA.segments.items()}
    header = header_of(delta_of(), delta_digest=hashlib.sha256(data).hexdigest())
    return header.to_bytes(), wired(segments)


BEYOND = float(np.nextafter(np.float32(LIMIT), np.float32(np.inf)))


@pytest.mark.parametrize("place", [0, SCHEMA.size - 1])
@pytest.mark.parametrize(
    ("value", "code"),
    [
        (float("nan"), "vector.not_finite"),
        (float("inf"), "vector.not_finite"),
        (float("-inf"), "vector.not_finite"),
        (BEYOND, "magnitude"),
        (-BEYOND, "magnitude"),
        (3e38, "magnitude"),
    ],
)
def test_numbers_that_would_spoil_the_mean_are_refused(value: float, code: str, place: int) -> None:
    assert reason(judged(*poisoned(value, place))) == code


@pytest.mark.parametrize("value", [LIMIT, -LIMIT])
def test_a_number_at_the_limit_is_admitted(value: float) -> None:
    assert isinstance(judged(*poisoned(value, 3)), Admitted)


def first(arrays: Arrays) -> str:
    return next(iter(arrays))


def _drop(arrays: Arrays) -> None:
    del arrays[first(arrays)]


def _more(arrays: Arrays) -> None:
    arrays["more"] = WireArray(DTYPE, (0,), ENCODING, b"")


def _rename(arrays: Arrays) -> None:
    arrays["000000000001"] = arrays.pop(first(arrays))


def _replace(**changes: object) -> Callable[[Arrays], None]:
    def change(arrays: Arrays) -> None:
        name = first(arrays)
        arrays[name] = arrays[name]._replace(**changes)

    return change


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (_drop, "vector.names"),
        (dict.clear, "vector.names"),
        (_more, "vector.names"),
        (_rename, "vector.names"),
        (_replace(dtype="float16"), "vector.dtype"),
        (_replace(dtype="float64"), "vector.dtype"),
        (_replace(dtype="x" * 1000), "vector.dtype"),
        (_replace(encoding="numpy.ndarray"), "vector.dtype"),
        (_replace(shape=(2, 2)), "vector.shape"),
        (_replace(shape=()), "vector.shape"),
        (_replace(shape=(5,)), "vector.shape"),
        (_replace(data=b"\0" * 12), "vector.shape"),
        (_replace(data=b"\0" * 20), "vector.shape"),
        (_replace(data=b""), "vector.shape"),
    ],
)
def test_arrays_that_are_not_the_schemas_segments_are_refused(
    change: Callable[[Arrays], None], code: str
) -> None:
    delta = delta_of()
    arrays = wired(delta.segments())
    change(arrays)
    outcome = judged(header_of(delta).to_bytes(), arrays)
    assert reason(outcome) == code
    assert isinstance(outcome, Refusal)
    assert len(outcome.found) < 120


def test_one_flipped_bit_on_the_wire_is_refused() -> None:
    delta = delta_of()
    arrays = wired(delta.segments())
    name = first(arrays)
    data = bytearray(arrays[name].data)
    data[5] ^= 1
    arrays[name] = arrays[name]._replace(data=bytes(data))
    assert reason(judged(header_of(delta).to_bytes(), arrays)) == "delta_digest"


def test_the_swap_of_two_segments_is_refused() -> None:
    delta = delta_of()
    arrays = wired(delta.segments())
    one, two, _ = arrays
    arrays[one], arrays[two] = arrays[two], arrays[one]
    assert reason(judged(header_of(delta).to_bytes(), arrays)) == "delta_digest"
