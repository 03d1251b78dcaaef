"""The parameter vector: one order, one byte form, one digest, and typed refusals."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from gobelin.shared import vector as vector_module
from gobelin.shared.errors import (
    DtypeError,
    NamesError,
    NotFiniteError,
    SchemaMismatchError,
    ShapeError,
    VectorError,
)
from gobelin.shared.vector import COLUMNS, ParameterSchema, ParameterVector, TensorSpec, squared

Shapes = dict[str, tuple[int, ...]]

SHAPES = st.dictionaries(
    st.text("abcxyz.019_é", min_size=1, max_size=8),
    st.lists(st.integers(0, 5), max_size=4).map(tuple),  # 0-d, empty and odd ones among them
    max_size=6,
)


def arrays_of(shapes: Shapes, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    scale = 10.0 ** rng.integers(-20, 20)
    return {k: (rng.standard_normal(s) * scale).astype(np.float32) for k, s in shapes.items()}


def tensors_of(shapes: Shapes, seed: int) -> dict[str, Tensor]:
    return {k: torch.tensor(a) for k, a in arrays_of(shapes, seed).items()}


def vector_of(shapes: Shapes, seed: int = 0) -> ParameterVector:
    schema = ParameterSchema.of_shapes(shapes)
    return ParameterVector.of_tensors(schema, tensors_of(shapes, seed))


@given(SHAPES, st.integers(0, 99))
def test_tensors_survive_the_flat_vector(shapes: Shapes, seed: int) -> None:
    tensors = tensors_of(shapes, seed)
    vector = vector_of(shapes, seed)
    assert vector.values.shape == (sum(math.prod(s) for s in shapes.values()),)
    back = vector.tensors()
    assert list(back) == sorted(shapes)
    for name, tensor in tensors.items():
        assert back[name].shape == tensor.shape
        assert torch.equal(back[name], tensor)
    again = ParameterVector.of_tensors(vector.schema, back)
    assert torch.equal(again.values, vector.values)


@given(SHAPES, st.integers(0, 99), st.randoms(use_true_random=False))
def test_the_order_of_insertion_does_not_matter(shapes: Shapes, seed: int, random) -> None:
    names = list(shapes)
    random.shuffle(names)
    tensors = tensors_of(shapes, seed)
    shuffled_schema = ParameterSchema.of_shapes({name: shapes[name] for name in names})
    shuffled = ParameterVector.of_tensors(shuffled_schema, {name: tensors[name] for name in names})
    assert shuffled_schema.digest == ParameterSchema.of_shapes(shapes).digest
    assert shuffled.digest == vector_of(shapes, seed).digest


@given(SHAPES, st.integers(0, 99))
def test_the_digest_is_sha256_of_little_endian_fp32_in_the_order_of_names(
    shapes: Shapes, seed: int
) -> None:
    arrays = arrays_of(shapes, seed)
    data = b"".join(arrays[name].astype("<f4").tobytes() for name in sorted(shapes))
    vector = vector_of(shapes, seed)
    assert bytes(vector.canonical_bytes) == data
    assert vector.digest == hashlib.sha256(data).hexdigest()


@settings(max_examples=50)
@given(SHAPES, st.integers(0, 99), st.integers(1, 40))
def test_segments_bring_back_the_vector(shapes: Shapes, seed: int, size: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vector_module, "SEGMENT", size)
        vector = vector_of(shapes, seed)
        segments = vector.segments()
        assert len(segments) == math.ceil(vector.schema.size / size)
        assert all(len(data) <= 4 * size for data in segments.values())
        assert b"".join(segments[name] for name in sorted(segments)) == vector.canonical_bytes
        shuffled = dict(reversed(segments.items()))
        assert ParameterVector.of_segments(vector.schema, shuffled).digest == vector.digest


@given(SHAPES, st.integers(0, 99), st.integers(0, 99))
def test_a_base_moved_by_its_delta_is_the_trained_vector(
    shapes: Shapes, one: int, two: int
) -> None:
    a, b = vector_of(shapes, one), vector_of(shapes, two)
    delta = b - a
    assert torch.equal(delta.values, b.values - a.values)
    scale = float(torch.cat([a.values.abs(), b.values.abs()]).max()) if a.schema.size else 0.0
    assert torch.allclose((a + delta).values, b.values, rtol=0, atol=scale * 2**-22)


def test_the_norm_is_euclidean_and_does_not_overflow_fp32() -> None:
    vector = vector_of({"w": (2,)})
    vector.values.copy_(torch.tensor([3e30, 4e30]))
    assert vector.norm() == pytest.approx(5e30)


def test_zeros_is_the_neutral_delta() -> None:
    vector = vector_of({"a": (3, 2), "b": ()})
    assert (vector + ParameterVector.zeros(vector.schema)).digest == vector.digest


@pytest.mark.parametrize("change", ["name", "shape", "one more"])
def test_the_schema_digest_tells_schemas_apart(change: str) -> None:
    shapes: Shapes = {"a": (2, 3), "b": (4,)}
    other: Shapes = {
        "name": {"a": (2, 3), "c": (4,)},
        "shape": {"a": (3, 2), "b": (4,)},
        "one more": {"a": (2, 3), "b": (4,), "c": (0,)},
    }[change]
    assert ParameterSchema.of_shapes(shapes).digest != ParameterSchema.of_shapes(other).digest


def test_a_schema_out_of_order_or_with_a_name_twice_is_refused() -> None:
    for names in (["b", "a"], ["a", "a"]):
        with pytest.raises(NamesError):
            ParameterSchema(tuple(TensorSpec(name, (1,)) for name in names))


class Small(nn.Module):
    """A module whose parameters are not registered in the order of their names."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Linear(3, 5)
        self.projector = nn.Linear(5, 2, bias=False)
        self.alpha = nn.Parameter(torch.tensor(0.5))


def test_a_module_takes_its_parameters_back() -> None:
    torch.manual_seed(0)
    source, target = Small(), Small()
    vector = ParameterVector.of(source)
    names = ["alpha", "projector.weight", "trunk.bias", "trunk.weight"]
    assert [spec.name for spec in vector.schema.tensors] == names
    assert ParameterVector.of(target).digest != vector.digest
    vector.load_into(target)
    for name, parameter in target.named_parameters():
        assert torch.equal(parameter, source.get_parameter(name))
        assert parameter.requires_grad


def test_a_vector_is_a_copy_that_training_does_not_touch() -> None:
    module = Small()
    vector = ParameterVector.of(module)
    before = vector.values.clone()
    with torch.no_grad():
        module.alpha.add_(1)
    assert torch.equal(vector.values, before)


def test_the_layout_in_memory_does_not_change_the_vector() -> None:
    weight = torch.arange(24.0).reshape(1, 2, 3, 4)
    schema = ParameterSchema.of_shapes({"w": (1, 2, 3, 4)})
    plain = ParameterVector.of_tensors(schema, {"w": weight})
    channels_last = weight.contiguous(memory_format=torch.channels_last)
    assert ParameterVector.of_tensors(schema, {"w": channels_last}).digest == plain.digest


def test_the_role_is_the_first_part_of_the_name() -> None:
    roles = {spec.role for spec in ParameterSchema.of(Small()).tensors}
    assert roles == {"alpha", "projector", "trunk"}
    assert TensorSpec("trunk.blocks.0.norm.weight", (1,)).role == "trunk"


def test_persistent_buffers_are_refused_by_name() -> None:
    with pytest.raises(NamesError, match="running_mean"):
        ParameterSchema.of(nn.Sequential(nn.BatchNorm1d(3)))
    with pytest.raises(NamesError, match="running_var"):
        ParameterVector.of(nn.BatchNorm1d(3))


def test_a_module_of_another_shape_or_other_names_is_not_loaded() -> None:
    module = Small()
    before = ParameterVector.of(module).digest
    shapes = {name: tuple(p.shape) for name, p in module.named_parameters()}
    with pytest.raises(NamesError):
        vector_of({**shapes, "extra": (1,)}).load_into(module)
    assert ParameterVector.of(module).digest == before
    with pytest.raises(ShapeError, match=r"projector\.weight"):
        vector_of({**shapes, "projector.weight": (5, 2)}).load_into(module)


Mangle = Callable[[dict[str, Tensor]], None]


def _put(name: str, tensor: Tensor) -> Mangle:
    return lambda tensors: tensors.update({name: tensor})


def _spoil(value: float) -> Mangle:
    return lambda tensors: tensors["b"].__setitem__(1, value)


@pytest.mark.parametrize(
    ("mangle", "error", "says"),
    [
        (_spoil(float("nan")), NotFiniteError, "b holds"),
        (_spoil(float("inf")), NotFiniteError, "b holds"),
        (_spoil(float("-inf")), NotFiniteError, "b holds"),
        (_put("b", torch.zeros(4, dtype=torch.float64)), DtypeError, "b is torch.float64"),
        (_put("b", torch.zeros(4, dtype=torch.bfloat16)), DtypeError, "b is torch.bfloat16"),
        (_put("b", torch.zeros(4, dtype=torch.int32)), DtypeError, "b is torch.int32"),
        (_put("a", torch.zeros(3, 2)), ShapeError, r"a has shape \(3, 2\)"),
        (_put("a", torch.zeros(6)), ShapeError, r"a has shape \(6,\)"),
        (lambda tensors: tensors.pop("a"), NamesError, "missing a"),
        (_put("c", torch.zeros(1)), NamesError, "not in the schema c"),
    ],
)
def test_tensors_the_schema_does_not_mean_are_refused(
    mangle: Mangle, error: type[VectorError], says: str
) -> None:
    tensors = {"a": torch.zeros(2, 3), "b": torch.zeros(4)}
    schema = ParameterSchema.of_shapes({"a": (2, 3), "b": (4,)})
    assert ParameterVector.of_tensors(schema, tensors).norm() == 0
    mangle(tensors)
    with pytest.raises(error, match=says):
        ParameterVector.of_tensors(schema, tensors)


def test_flat_values_the_schema_does_not_mean_are_refused() -> None:
    schema = ParameterSchema.of_shapes({"a": (3,)})
    with pytest.raises(DtypeError):
        ParameterVector(schema, torch.zeros(3, dtype=torch.float64))
    for wrong in (torch.zeros(2), torch.zeros(4), torch.zeros(3, 1)):
        with pytest.raises(ShapeError):
            ParameterVector(schema, wrong)


def test_arithmetic_that_overflows_is_refused() -> None:
    schema = ParameterSchema.of_shapes({"a": (1,)})
    huge = ParameterVector(schema, torch.tensor([3e38]))
    with pytest.raises(NotFiniteError):
        huge + huge


def test_vectors_of_different_schemas_do_not_meet() -> None:
    one, other = vector_of({"a": (6,)}), vector_of({"a": (2, 3)})
    with pytest.raises(SchemaMismatchError):
        one - other
    with pytest.raises(SchemaMismatchError):
        one + other


def test_segments_the_schema_does_not_mean_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vector_module, "SEGMENT", 4)
    vector = vector_of({"a": (6,)})
    first, second = vector.segments()
    good = vector.segments()
    for wrong in ({first: good[first]}, {**good, "more": b""}, {}):
        with pytest.raises(NamesError):
            ParameterVector.of_segments(vector.schema, wrong)
    for wrong_bytes in (good[second][:-1], good[second][:-4], bytes(good[second]) + bytes(4), b""):
        with pytest.raises(ShapeError):
            ParameterVector.of_segments(vector.schema, {**good, second: wrong_bytes})
    nan = np.array([1, np.nan], dtype="<f4").tobytes()
    with pytest.raises(NotFiniteError):
        ParameterVector.of_segments(vector.schema, {**good, second: nan})


@pytest.mark.parametrize("count", [0, 1, COLUMNS, 3 * COLUMNS + 5])
def test_squared_is_the_sum_of_exact_squares(count: int) -> None:
    values = torch.randn(count, generator=torch.Generator().manual_seed(0)) * 1e19
    exact = math.fsum(float(value) ** 2 for value in values)
    assert squared(values) == pytest.approx(exact, rel=1e-14)
