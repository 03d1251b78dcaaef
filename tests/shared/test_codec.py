"""Codecs: bounded error, true byte counts, and garbage is refused by a typed error, never worse."""

from __future__ import annotations

import math
import struct
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gobelin.shared.codec import CODECS, CodecName, codec_named, distortion, int4
from gobelin.shared.codec.bf16 import bf16_bytes, bf16_values
from gobelin.shared.codec.blocks import quantise, restore
from gobelin.shared.codec.int4 import BLOCK as BLOCK4
from gobelin.shared.codec.int8 import BLOCK as BLOCK8
from gobelin.shared.codec.topk import CHUNK, ONE_IN
from gobelin.shared.errors import CodecError, DtypeError, NotFiniteError, ShapeError

FLOAT = torch.finfo(torch.float32)
SIZES = [0, 1, 2, 63, 64, 65, 255, 256, 257, 4095, 4096, 4097, 4159, 4160, 4161, 12_345]
each_codec = pytest.mark.parametrize("name", list(CODECS))
each_size = pytest.mark.parametrize("count", SIZES)

# Values of any size, many zeros, subnormal and near fp32's largest ones among them.
NUMBERS = st.floats(width=32, allow_nan=False, allow_infinity=False) | st.just(0.0)
VECTORS = st.lists(NUMBERS, max_size=400).map(lambda x: torch.tensor(x, dtype=torch.float32))


def gaussian(count: int, seed: int = 0, scale: float = 1e-3) -> Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(seed)) * scale


def back_and_forth(name: CodecName, values: Tensor) -> Tensor:
    data = CODECS[name].encode(values)
    least, most = CODECS[name].bounds(values.numel())
    assert least <= len(data) <= most
    decoded = CODECS[name].decode(data, values.numel())
    assert (decoded.shape, decoded.dtype) == (values.shape, torch.float32)
    assert bool(torch.isfinite(decoded).all())
    return decoded


@each_codec
@each_size
def test_every_size_comes_back_in_the_bounds_said_before(name: CodecName, count: int) -> None:
    values = gaussian(count)
    assert distortion(values, back_and_forth(name, values)) < 1


@each_codec
@given(values=VECTORS)
def test_any_finite_values_come_back_finite(name: CodecName, values: Tensor) -> None:
    back_and_forth(name, values)


@given(VECTORS)
def test_fp32_keeps_every_bit(values: Tensor) -> None:
    assert back_and_forth("fp32", values).numpy().tobytes() == values.numpy().tobytes()


@given(VECTORS)
def test_bf16_is_the_nearest_there_is(values: Tensor) -> None:
    largest = torch.finfo(torch.bfloat16).max
    nearest = values.clamp(-largest, largest).bfloat16().float()
    assert torch.equal(back_and_forth("bf16", values), nearest)


@pytest.mark.parametrize(("name", "block"), [("int8", BLOCK8), ("int4", BLOCK4)])
@given(values=VECTORS, scale=st.sampled_from([1e-44, 1e-30, 1e-3, 1.0, 1e30]))
def test_a_quantiser_errs_by_half_its_scale_at_most(
    name: CodecName, block: int, values: Tensor, scale: float
) -> None:
    values = (values.double() * scale).clamp(-FLOAT.max, FLOAT.max).float()
    data = CODECS[name].encode(values)
    scales = bf16_values(data[: 2 * -(-values.numel() // block)]).double()
    decoded = CODECS[name].decode(data, values.numel())
    error = (decoded.double() - values.double()).abs()
    half = scales.repeat_interleave(block)[: values.numel()] / 2
    assert bool((error <= half * (1 + 1e-4)).all())


@pytest.mark.parametrize("name", ["bf16", "int8", "int4", "topk"])
@given(values=VECTORS)
def test_what_was_decoded_is_encoded_without_further_loss(name: CodecName, values: Tensor) -> None:
    once = back_and_forth(name, values)
    assert torch.equal(back_and_forth(name, once), once)


@each_codec
def test_zeros_stay_zeros(name: CodecName) -> None:
    assert not bool(back_and_forth(name, torch.zeros(5000)).any())


def test_topk_keeps_the_greatest_of_each_chunk_and_their_signs() -> None:
    values = gaussian(2 * CHUNK + 100)
    decoded = back_and_forth("topk", values)
    for start in (0, CHUNK, 2 * CHUNK):
        chunk, kept = values[start : start + CHUNK], decoded[start : start + CHUNK]
        greatest = chunk.abs().topk(math.ceil(len(chunk) / ONE_IN)).indices
        assert set(kept.nonzero().flatten().tolist()) == set(greatest.tolist())
        assert torch.equal(kept[greatest].sign(), chunk[greatest].sign())
        assert len(set(kept[greatest].abs().tolist())) <= 2


def test_topk_keeps_no_zero_so_what_is_frozen_stays() -> None:
    values = torch.zeros(CHUNK)
    values[[5, 77, 4000]] = torch.tensor([1.0, -0.5, 1.0])
    assert torch.equal(back_and_forth("topk", values), values)


def test_the_two_magnitudes_of_topk_are_the_best_two() -> None:
    sizes = gaussian(CHUNK, seed=3).abs().topk(CHUNK // ONE_IN).values.double().sort().values
    best = min(
        sum(float(((part - part.mean()) ** 2).sum()) for part in (sizes[:cut], sizes[cut:]))
        for cut in range(1, len(sizes))
    )
    decoded = back_and_forth("topk", gaussian(CHUNK, seed=3)).abs()
    found = float(((decoded[decoded > 0].double().sort().values - sizes) ** 2).sum())
    assert found <= best * 1.05  # the magnitudes are rounded to bf16


@pytest.mark.parametrize(
    ("name", "least"), [("fp32", 1.0), ("bf16", 2.0), ("int8", 3.9), ("int4", 7.4), ("topk", 140)]
)
def test_the_ratio_on_true_bytes_of_a_million_values(name: CodecName, least: float) -> None:
    count = 1_000_000
    assert 4 * count / len(CODECS[name].encode(gaussian(count))) >= least
    assert 4 * count / CODECS[name].bounds(count)[1] >= least  # also in the worst case


@each_codec
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_nan_and_infinity_are_not_encoded(name: CodecName, bad: float) -> None:
    values = gaussian(100)
    values[57] = bad
    with pytest.raises(NotFiniteError):
        CODECS[name].encode(values)


@each_codec
def test_only_flat_fp32_is_encoded(name: CodecName) -> None:
    with pytest.raises(DtypeError):
        CODECS[name].encode(torch.zeros(4, dtype=torch.float64))
    with pytest.raises(ShapeError):
        CODECS[name].encode(torch.zeros(2, 2))


@each_codec
def test_encoding_the_same_values_gives_the_same_bytes(name: CodecName) -> None:
    values = gaussian(10_000)
    payloads = {CODECS[name].encode(values.clone()) for _ in range(3)}
    assert len(payloads) == 1


def tried(name: CodecName, data: bytes, count: int) -> None:
    """Decode what may be garbage: finite values of the right size, or one of two typed errors."""
    try:
        values = CODECS[name].decode(data, count)
    except (CodecError, NotFiniteError):
        return
    assert values.shape == (count,)
    assert bool(torch.isfinite(values).all())


@each_codec
@given(data=st.binary(max_size=600), count=st.integers(0, 9000))
def test_random_bytes_are_refused_or_harmless(name: CodecName, data: bytes, count: int) -> None:
    tried(name, data, count)


@each_codec
@given(data=st.data(), count=st.sampled_from([1, 3, 64, 300, 4096, 5000]))
@settings(max_examples=200)
def test_random_bytes_of_a_possible_size_are_refused_or_harmless(
    name: CodecName, data: st.DataObject, count: int
) -> None:
    size = data.draw(st.integers(*CODECS[name].bounds(count)))
    seed = data.draw(st.integers(0, 1 << 32))
    tried(name, np.random.default_rng(seed).bytes(size), count)


@each_codec
@given(place=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
@settings(max_examples=200)
def test_a_damaged_payload_is_refused_or_harmless(name: CodecName, place: float, flip: int) -> None:
    data = bytearray(CODECS[name].encode(gaussian(5000)))
    data[int(place * len(data))] ^= flip
    tried(name, bytes(data), 5000)


@each_codec
@each_size
def test_a_payload_cut_or_lengthened_is_refused(name: CodecName, count: int) -> None:
    data = CODECS[name].encode(gaussian(count))
    for other in (data[:-1], data[: len(data) // 2], data + b"\0", data + data, b""):
        if other != data:
            with pytest.raises(CodecError):
                CODECS[name].decode(other, count)


@each_codec
def test_a_payload_for_another_number_of_values_is_refused(name: CodecName) -> None:
    data = CODECS[name].encode(gaussian(8192))
    for count in (0, 1, 4096, 8192 + 4096, 1 << 40):
        with pytest.raises(CodecError):
            CODECS[name].decode(data, count)


def altered(data: bytes, offset: int, new: bytes) -> bytes:
    return data[:offset] + new + data[offset + len(new) :]


@pytest.mark.parametrize(
    ("name", "offset", "new", "error"),
    [
        ("int8", 0, struct.pack("<H", 0x7F80), NotFiniteError),  # a scale of infinity
        ("int8", 0, struct.pack("<H", 0x7FC0), NotFiniteError),
        ("int8", 0, struct.pack("<H", 0xBF80), CodecError),  # a scale of −1
        ("int4", 0, struct.pack("<H", 0xFF80), NotFiniteError),
        ("topk", 4, struct.pack("<H", 0x7F80), NotFiniteError),
        ("topk", 4, struct.pack("<H", 0xBF80), CodecError),
        ("topk", 0, struct.pack("<I", 0xFFFFFFFF), CodecError),  # four billion kept values
        ("topk", 0, struct.pack("<I", 63), CodecError),
        ("topk", 0, struct.pack("<I", 65), CodecError),
        ("topk", 0, struct.pack("<I", 0), CodecError),
    ],
)
def test_hostile_headers_are_refused(
    name: CodecName, offset: int, new: bytes, error: type[Exception]
) -> None:
    data = CODECS[name].encode(gaussian(CHUNK))
    with pytest.raises(error):
        CODECS[name].decode(altered(data, offset, new), CHUNK)


def test_a_position_beyond_the_values_is_refused() -> None:
    values = torch.zeros(CHUNK)
    values[-1] = 1.0
    data = CODECS["topk"].encode(values)
    with pytest.raises(CodecError, match="beyond"):
        CODECS["topk"].decode(data, CHUNK - 1)


@each_codec
def test_a_codec_is_found_by_its_name(name: CodecName) -> None:
    assert codec_named(name) is CODECS[name]


@pytest.mark.parametrize("name", ["", "FP32", "int3", "pickle", "x" * 1000])
def test_another_name_is_refused_with_those_there_are(name: Any) -> None:
    with pytest.raises(CodecError, match="int4") as caught:
        codec_named(name)
    assert (caught.value.code, caught.value.exit_code) == ("codec", 25)
    assert len(str(caught.value)) < 120


@pytest.mark.parametrize("part", [2 * BLOCK4, 1 << 17])
@each_size
def test_int4_says_lower_nibbles_first_behind_all_scales_whatever_its_parts(
    count: int, part: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(int4, "PART", part)
    values = gaussian(count)
    scales, codes = quantise(values, BLOCK4, 7)
    nibbles = [int(code) + 8 for code in codes] + [0] * (count % 2)
    packed = bytes(low | high << 4 for low, high in zip(nibbles[::2], nibbles[1::2], strict=True))
    data = CODECS["int4"].encode(values)
    assert data == bf16_bytes(scales) + packed
    assert torch.equal(CODECS["int4"].decode(data, count), restore(scales, codes, BLOCK4))
