"""The broadcast: from any base on the way, the later ones are reached to the bit by steps."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from gobelin.protocols.messages import Step
from gobelin.server.broadcast import broadcast, rounds_to_send
from gobelin.shared import vector as vector_module
from gobelin.shared.codec import CodecName
from gobelin.shared.errors import CodecError, VectorError
from gobelin.shared.step import CodedStep, follow
from gobelin.shared.vector import ParameterSchema, ParameterVector

SCHEMA = ParameterSchema.of_shapes({"w": (50, 7), "b": (333,)})
with pytest.MonkeyPatch.context() as patch:
    patch.setattr(vector_module, "SEGMENT", 256)
    assert len(SCHEMA.segments) == 3  # a schema keeps the segments it was first asked for

LOSSY: list[CodecName] = ["bf16", "int8", "int4", "topk"]


def vector(seed: int, scale: float = 1.0) -> ParameterVector:
    values = torch.randn(SCHEMA.size, generator=torch.Generator().manual_seed(seed)) * scale
    return ParameterVector(SCHEMA, values)


def course(codecs: list[CodecName], seed: int) -> tuple[list[ParameterVector], list[CodedStep]]:
    """The bases of a federation that broadcasts each round by another codec, and its steps."""
    bases, steps, owed = [vector(seed)], [], None
    for number, codec in enumerate(codecs, start=1):
        wanted = bases[-1] + vector(1000 * seed + number, 1e-2)
        told = broadcast(codec, bases[-1], wanted, owed)
        owed = told.owed
        assert told.payload is not None
        header = Step(number, bases[-1].digest, codec)
        steps.append(CodedStep(header, told.payload.segments))
        bases.append(told.consensus)
    return bases, steps


@given(st.lists(st.sampled_from(LOSSY), min_size=1, max_size=6), st.integers(0, 99), st.data())
def test_whoever_has_a_base_reaches_every_later_one_by_the_steps_alone(
    codecs: list[CodecName], seed: int, data: st.DataObject
) -> None:
    bases, steps = course(codecs, seed)
    start = data.draw(st.integers(0, len(steps)))
    end = data.draw(st.integers(start, len(steps)))
    assert follow(bases[start], steps[start:end]).digest == bases[end].digest


def test_a_step_weighs_what_its_payload_does() -> None:
    _, (step,) = course(["int8"], 0)
    assert step.size == sum(map(len, step.segments.values()))
    assert step.size < 4 * SCHEMA.size / 3.5


def test_a_damaged_step_is_one_of_our_errors() -> None:
    bases, (step,) = course(["int4"], 0)
    cut = {name: data[:-1] for name, data in step.segments.items()}
    fewer = dict(list(step.segments.items())[1:])
    for segments, kind in ((cut, CodecError), (fewer, VectorError)):
        with pytest.raises(kind):
            follow(bases[0], [replace(step, segments=segments)])


def test_a_lossless_broadcast_is_the_consensus_itself() -> None:
    wanted = vector(1)
    told = broadcast("fp32", vector(0), wanted, None)
    assert told.consensus.digest == wanted.digest
    assert (told.payload, told.owed, told.distortion) == (None, None, 0.0)


def test_what_a_lossy_broadcast_left_owed_a_lossless_one_pays() -> None:
    told = broadcast("int4", vector(0), vector(0) + vector(1, 1e-2), None)
    assert told.owed is not None
    paid = broadcast("fp32", told.consensus, vector(2), told.owed)
    assert torch.equal(paid.consensus.values, vector(2).values + told.owed)
    assert paid.owed is None


@given(
    st.lists(st.sampled_from(["bf16", "int8", "int4"]), min_size=1, max_size=12), st.integers(0, 99)
)
def test_the_consensus_differs_from_the_sum_of_what_was_wanted_by_what_is_owed_alone(
    codecs: list[CodecName], seed: int
) -> None:
    base, owed = vector(seed), None
    wanted = base.values.double()
    for number, codec in enumerate(codecs):
        move = vector(1000 * seed + number, 1e-2)
        wanted += move.values.double()
        told = broadcast(codec, base, base + move, owed)
        base, owed = told.consensus, told.owed
    short: Tensor | float = 0.0 if owed is None else owed.double()
    assert torch.allclose(base.values.double() + short, wanted, rtol=0, atol=1e-5)


def test_steps_are_sent_where_all_are_there_and_together_are_less_than_a_base() -> None:
    sizes = {3: 30, 4: 30, 5: 30}
    assert rounds_to_send(4, 5, sizes, 100) == [5]
    assert rounds_to_send(2, 5, sizes, 100) == [3, 4, 5]
    assert rounds_to_send(5, 5, sizes, 100) == []
    assert rounds_to_send(2, 5, sizes, 90) is None  # no less than the base
    assert rounds_to_send(1, 5, sizes, 1000) is None  # the second round's step is not there
    assert rounds_to_send(None, 5, sizes, 1000) is None
    assert rounds_to_send(6, 5, sizes, 1000) is None  # of a course that was left
