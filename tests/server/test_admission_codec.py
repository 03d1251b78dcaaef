"""An encoded delta is bounded before it is decoded, and decoded only when it is what was sent."""

from __future__ import annotations

import dataclasses
import struct
from typing import Any

import pytest
import torch

from gobelin.protocols.bundle import WireArray
from gobelin.protocols.messages import Contribution, RoundPlan, encoding_of
from gobelin.server.admission import Admitted, Refusal, admit
from gobelin.server.home import FederationSettings
from gobelin.shared import vector as vector_module
from gobelin.shared.codec import CODECS, Payload, compress
from gobelin.shared.errors import ConfigError
from gobelin.shared.settings import parse_settings
from gobelin.shared.vector import DTYPE, ParameterSchema, ParameterVector

SCHEMA = ParameterSchema.of_shapes({"a": (100, 30), "b": (5000,), "c": ()})
each_codec = pytest.mark.parametrize("codec", list(CODECS))
each_codec_asked = pytest.mark.parametrize("asked", list(CODECS))
each_lossy = pytest.mark.parametrize("codec", ["bf16", "int8", "int4", "topk"])

with pytest.MonkeyPatch.context() as patch:
    patch.setattr(vector_module, "SEGMENT", 4096)
    assert len(SCHEMA.segments) == 2  # a schema keeps the segments it was first asked for


def plan_of(codec: str) -> RoundPlan:
    return RoundPlan("fed", 2, 9, "{}", SCHEMA.digest, "b" * 64, 5, 7, 60.0, codec)


def payload_of(codec: str) -> Payload:
    values = torch.randn(SCHEMA.size, generator=torch.Generator().manual_seed(0)) * 1e-3
    return compress(codec, ParameterVector(SCHEMA, values), None).payload


def judged(payload: Payload, asked: str = "", **changes: object) -> Admitted | Refusal:
    """What admission makes of a payload, sent by an honest header unless it is changed."""
    plan = plan_of(asked or payload.codec)
    header = Contribution(
        *("fed", 2, plan.digest, plan.base_digest, payload.digest, 5, 80, 1.0),
        codec=payload.codec,
    )
    arrays = {
        name: WireArray(DTYPE, (end - start,), encoding_of(payload.codec), payload.segments[name])
        for name, (start, end) in SCHEMA.segments.items()
    }
    return admit(plan, {"": SCHEMA}, 8, dataclasses.replace(header, **changes).to_bytes(), arrays)


def altered(payload: Payload, change: Any) -> Payload:
    """The payload with its last segment changed, and the digest that fits it."""
    name = max(payload.segments)
    return Payload(
        SCHEMA, payload.codec, {**payload.segments, name: change(payload.segments[name])}
    )


@each_codec
def test_what_is_aggregated_is_what_was_sent(codec: str) -> None:
    payload = payload_of(codec)
    outcome = judged(payload)
    assert isinstance(outcome, Admitted)
    assert outcome.delta.digest == payload.decode().digest
    assert outcome.payload_bytes == sum(map(len, payload.segments.values()))


@each_codec
@each_codec_asked
def test_the_plans_codec_or_a_coarser_one_is_taken_and_a_finer_one_refused(
    codec: str, asked: str
) -> None:
    outcome = judged(payload_of(codec), asked)
    if list(CODECS).index(codec) >= list(CODECS).index(asked):
        assert isinstance(outcome, Admitted)
        assert outcome.delta.digest == payload_of(codec).decode().digest
    else:
        assert isinstance(outcome, Refusal)
        assert outcome.reason == "codec_finer"


@each_codec
def test_a_delta_that_is_not_of_the_codec_it_says_is_refused(codec: str) -> None:
    another = "int8" if codec != "int8" else "int4"
    assert isinstance(judged(payload_of(codec), "fp32", codec=another), Refusal)
    outcome = judged(payload_of(codec), "fp32", codec="int3")
    assert isinstance(outcome, Refusal)
    assert outcome.reason == "codec"


@each_codec
@pytest.mark.parametrize("change", [lambda d: b"", lambda d: d[:3], lambda d: d + bytes(len(d))])
def test_a_payload_that_cannot_be_one_by_its_size_is_never_decoded(
    codec: str, change: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Payload, "decode", _never)
    outcome = judged(altered(payload_of(codec), change))
    assert isinstance(outcome, Refusal)
    assert outcome.reason == "vector.shape"


@each_lossy
def test_a_payload_the_header_does_not_name_is_never_decoded(
    codec: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Payload, "decode", _never)
    outcome = judged(payload_of(codec), delta_digest="0" * 64)
    assert isinstance(outcome, Refusal)
    assert outcome.reason == "delta_digest"


def _never(_: Payload) -> ParameterVector:
    raise AssertionError("decoded")


def set_scale(offset: int, bits: int) -> Any:
    return lambda data: data[:offset] + struct.pack("<H", bits) + data[offset + 2 :]


@pytest.mark.parametrize(
    ("codec", "change", "reason"),
    [
        ("int8", set_scale(0, 0xBF80), "codec"),  # a scale of −1
        ("int4", set_scale(0, 0xBF80), "codec"),
        ("topk", set_scale(0, 0xFFFF), "codec"),  # 65,535 kept values
        ("topk", lambda data: data[:-1], "codec"),
        ("bf16", set_scale(0, 0x7FC0), "vector.not_finite"),
        ("int8", set_scale(0, 0x7F80), "vector.not_finite"),
        ("int4", set_scale(0, 0x7FC0), "vector.not_finite"),
        ("topk", set_scale(4, 0x7F80), "vector.not_finite"),
        ("int4", set_scale(0, 0x4700), "magnitude"),  # a scale of 32,768
        ("topk", set_scale(6, 0x4700), "magnitude"),
    ],
)
def test_a_hostile_payload_is_refused_with_its_reason(codec: str, change: Any, reason: str) -> None:
    outcome = judged(altered(payload_of(codec), change))
    assert isinstance(outcome, Refusal)
    assert outcome.reason == reason
    assert 0 < len(outcome.found) < 120


def test_federation_toml_names_a_codec_and_only_one_there_is() -> None:
    for codec in CODECS:
        text = f'name = "fed"\n[rounds]\ncodec = "{codec}"'
        assert parse_settings(FederationSettings, text, "federation.toml").rounds.codec == codec
    assert FederationSettings(name="fed").rounds.codec == "fp32"
    with pytest.raises(ConfigError, match=r"rounds\.codec.*int4"):
        parse_settings(FederationSettings, 'name = "fed"\n[rounds]\ncodec = "int3"', "toml")
