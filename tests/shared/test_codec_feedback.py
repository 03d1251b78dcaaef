"""Error feedback: what a round loses, a later round sends; so coarse codecs still converge."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from gobelin.shared import vector as vector_module
from gobelin.shared.codec import CODECS, CodecName, Payload, compress
from gobelin.shared.codec.topk import CHUNK, ONE_IN
from gobelin.shared.errors import CodecError
from gobelin.shared.vector import ParameterSchema, ParameterVector


def in_segments(schema: ParameterSchema, size: int) -> ParameterSchema:
    """The schema with segments of another size; it keeps the ones it was first asked for."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vector_module, "SEGMENT", size)
        assert len(schema.segments) == -(-schema.size // size)
    return schema


SCHEMA = in_segments(ParameterSchema.of_shapes({"a": (50, 7), "b": (333,), "c": ()}), 256)


def delta_of(seed: int) -> ParameterVector:
    values = torch.randn(SCHEMA.size, generator=torch.Generator().manual_seed(seed)) * 1e-3
    return ParameterVector(SCHEMA, values)


def test_without_loss_the_delta_itself_is_sent_and_its_digest_is_the_payloads() -> None:
    delta = delta_of(0)
    sent = compress("fp32", delta, None)
    assert sent.payload.segments == delta.segments()
    assert sent.payload.digest == delta.digest
    assert sent.payload.size == 4 * SCHEMA.size
    assert sent.payload.decode().digest == delta.digest
    assert (sent.residual, sent.distortion) == (None, 0.0)


@pytest.mark.parametrize("name", ["bf16", "int8", "int4", "topk"])
def test_what_is_owed_is_what_was_wanted_less_what_was_sent(name: CodecName) -> None:
    first = compress(name, delta_of(0), None)
    assert first.residual is not None
    wanted = delta_of(1).values + CODECS[name].feedback * first.residual
    second = compress(name, delta_of(1), first.residual)
    assert second.residual is not None
    sent = second.payload.decode().values
    assert torch.equal(second.residual, wanted - sent)
    lost = float((second.residual.double() ** 2).sum() / (wanted.double() ** 2).sum())
    assert second.distortion == pytest.approx(lost)


@given(st.sampled_from(["bf16", "int8", "int4"]), st.integers(1, 12), st.integers(0, 99))
def test_the_sums_of_sent_and_made_differ_by_the_last_residual(
    name: CodecName, rounds: int, seed: int
) -> None:
    residual: Tensor | None = None
    made, sent = torch.zeros(SCHEMA.size).double(), torch.zeros(SCHEMA.size).double()
    for number in range(rounds):
        delta = delta_of(1000 * seed + number)
        done = compress(name, delta, residual)
        residual = done.residual
        made += delta.values
        sent += done.payload.decode().values
    assert residual is not None
    assert torch.allclose(sent - made, -residual.double(), rtol=0, atol=1e-8)


def test_a_residual_is_paid_in_full_once_the_codec_loses_nothing() -> None:
    owed = compress("topk", delta_of(0), None)
    paid = compress("fp32", delta_of(1), owed.residual)
    assert owed.residual is not None
    assert paid.residual is None
    assert torch.equal(paid.payload.decode().values, delta_of(1).values + owed.residual)


def test_the_same_delta_and_residual_give_the_same_bytes() -> None:
    owed = compress("int4", delta_of(0), None).residual
    assert len({compress("int4", delta_of(1), owed).payload.digest for _ in range(3)}) == 1


def test_the_digest_covers_every_segment_in_order() -> None:
    segments = dict(compress("int4", delta_of(0), None).payload.segments)
    one, two, three = segments
    swapped = {one: segments[two], two: segments[one], three: segments[three]}
    assert Payload(SCHEMA, "int4", segments).digest != Payload(SCHEMA, "int4", swapped).digest
    assert (
        Payload(SCHEMA, "int4", segments).digest
        == Payload(SCHEMA, "int4", dict(reversed(segments.items()))).digest
    )


def test_a_payload_of_another_codec_is_refused() -> None:
    segments = compress("int4", delta_of(0), None).payload.segments
    with pytest.raises(CodecError):
        Payload(SCHEMA, "int8", segments).decode()


def descend(feedback: bool, steps: int = 300) -> float:
    """Share of the loss left when two members descend an ill-conditioned quadratic by topk.

    Along 64 stiff axes, as many as topk keeps, the members want opposite things, so what they
    send of those cancels; the loss lies along thousands of axes up to thirty times softer.
    """
    size, stiff = 4096, CHUNK // ONE_IN
    schema = ParameterSchema.of_shapes({"x": (size,)})
    curvature = torch.cat([torch.ones(stiff), torch.logspace(-1, -1.5, size - stiff)])
    apart = torch.cat([torch.full((stiff,), 0.2), torch.zeros(size - stiff)])
    x = torch.cat([torch.zeros(stiff), torch.ones(size - stiff)])
    start = float((curvature * x * x).sum())
    residuals: dict[int, Tensor | None] = {+1: None, -1: None}
    for _ in range(steps):
        moves = torch.zeros(size)
        for side, residual in residuals.items():
            delta = ParameterVector(schema, -0.2 * curvature * (x - side * apart))
            done = compress("topk", delta, residual)
            residuals[side] = done.residual if feedback else None
            moves += done.payload.decode().values / 2
        x = x + moves
    return float((curvature * x * x).sum()) / start


def test_with_feedback_topk_descends_where_without_it_stalls() -> None:
    assert descend(feedback=True) < 0.25
    assert descend(feedback=False) > 0.95


@pytest.mark.parametrize("codec", ["fp32", "int8", "int4", "topk"])
def test_no_bit_depends_on_the_number_of_threads(codec: str) -> None:
    found = []
    before = torch.get_num_threads()
    for threads in (1, 3):
        torch.set_num_threads(threads)
        made = compress(codec, delta_of(3), delta_of(4).values)
        owed = None if made.residual is None else made.residual.numpy().tobytes()
        decoded = made.payload.decode().digest
        found.append((made.payload.digest, owed, made.distortion, decoded))
        assert torch.get_num_threads() == threads
    torch.set_num_threads(before)
    assert found[0] == found[1]
