"""Every parameter is in exactly one fragment, and what rounds exchange in turn is the model."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gobelin.shared.errors import ConfigError
from gobelin.shared.fragments import Fragment, fragment_of_round, fragments_of, start_of_round
from gobelin.shared.model import Jepa
from gobelin.shared.recipe import load_recipe
from gobelin.shared.vector import ParameterSchema, ParameterVector

MODULES = st.dictionaries(
    st.one_of(
        st.integers(0, 12).map(lambda i: f"trunk.blocks.{i}.mlp"),
        st.sampled_from(["tokenizer.embed.0", "tokenizer.embed.1", "trunk.norm", "projector.a"]),
    ),
    st.lists(st.integers(1, 9), min_size=1, max_size=3),
    min_size=1,
    max_size=12,
)


def schema_of(modules: dict[str, list[int]]) -> ParameterSchema:
    return ParameterSchema.of_shapes(
        {f"{name}.{i}": (size,) for name, sizes in modules.items() for i, size in enumerate(sizes)}
    )


def dealt(schema: ParameterSchema, count: int) -> tuple[Fragment, ...]:
    """The fragments, or the fewer that there are parts for."""
    while True:
        try:
            return fragments_of(schema, count)
        except ConfigError:
            count -= 1


def ramp(schema: ParameterSchema) -> ParameterVector:
    return ParameterVector(schema, torch.arange(1.0, schema.size + 1))


@given(MODULES, st.integers(1, 6))
def test_every_parameter_is_in_exactly_one_fragment(
    modules: dict[str, list[int]], count: int
) -> None:
    schema = schema_of(modules)
    parts = dealt(schema, count)
    names = [name for part in parts for name in part.schema.offsets]
    assert sorted(names) == sorted(schema.offsets)
    vector = ramp(schema)
    together = sum(part.widen(part.of(vector)).values for part in parts)
    assert torch.equal(torch.as_tensor(together), vector.values)


@given(MODULES, st.integers(1, 6), st.data())
def test_putting_back_what_was_taken_changes_nothing_else(
    modules: dict[str, list[int]], count: int, data: st.DataObject
) -> None:
    schema = schema_of(modules)
    part = data.draw(st.sampled_from(dealt(schema, count)))
    vector = ramp(schema)
    assert torch.equal(part.put(vector.values, part.take(vector.values)), vector.values)
    moved = ParameterVector(schema, part.put(vector.values, -part.take(vector.values)))
    for name, tensor in moved.tensors().items():
        sign = -1 if name in part.names else 1
        assert torch.equal(tensor, sign * vector.tensors()[name])
    for name, tensor in part.of(vector).tensors().items():
        assert torch.equal(tensor, vector.tensors()[name])


def test_blocks_are_dealt_out_in_strides() -> None:
    schema = schema_of({f"trunk.blocks.{i}.mlp": [4] for i in range(12)})
    for part in fragments_of(schema, 3):
        blocks = {int(name.split(".")[2]) for name in part.names}
        assert blocks == set(range(part.index, 12, 3))


@pytest.mark.parametrize(
    ("recipe", "count", "most"), [("tiny", 2, 1.15), ("small", 3, 1.3), ("base", 4, 1.15)]
)
def test_fragments_of_real_models_are_of_about_one_size(
    recipe: str, count: int, most: float
) -> None:
    """As far as the largest matrix of the projector allows."""
    with torch.device("meta"):
        schema = ParameterSchema.of(Jepa(load_recipe(recipe)))
    sizes = [part.schema.size for part in fragments_of(schema, count)]
    assert max(sizes) * count <= most * schema.size


def test_one_fragment_is_the_model_itself() -> None:
    schema = schema_of({"trunk.blocks.0.mlp": [3, 4], "projector.a": [5]})
    (whole,) = fragments_of(schema, 1)
    assert whole.schema is schema
    vector = ramp(schema)
    assert whole.of(vector).digest == vector.digest
    assert whole.take(vector.values).data_ptr() == vector.values.data_ptr()


@pytest.mark.parametrize("count", [-1, 0, 3, 7, 1 << 62])
def test_more_fragments_than_parts_are_refused(count: int) -> None:
    schema = schema_of({"trunk.blocks.0.mlp": [3, 4, 5], "projector.a": [5]})
    with pytest.raises(ConfigError, match="too many"):
        fragments_of(schema, count)


def test_rounds_take_turns() -> None:
    schema = schema_of({f"trunk.blocks.{i}.mlp": [4] for i in range(3)})
    turns = [fragment_of_round(schema, 3, number).index for number in range(1, 8)]
    assert turns == [0, 1, 2, 0, 1, 2, 0]


# ---------------------------------------------------------------- where a node starts

THREE = schema_of({f"trunk.blocks.{i}.mlp": [2] for i in range(3)})
SHARED = ParameterVector(THREE, torch.full((6,), 8.0))
OWN = torch.zeros(6)


@pytest.mark.parametrize(
    ("number", "before", "expected"),
    [
        (2, 1, [8, 8, 0, 0, 0, 0]),  # round 1 exchanged the first fragment
        (3, 2, [0, 0, 8, 8, 0, 0]),
        (5, 4, [8, 8, 0, 0, 0, 0]),
        (5, 3, [8, 8, 0, 0, 8, 8]),  # away for round 4
        (6, 3, [8, 8, 8, 8, 8, 8]),  # away for a whole turn
        (90, 1, [8, 8, 8, 8, 8, 8]),
    ],
)
def test_a_node_takes_in_what_was_exchanged_since_its_last_round(
    number: int, before: int, expected: list[float]
) -> None:
    assert start_of_round(number, SHARED, 3, before, OWN).values.tolist() == expected


def test_a_fragment_may_be_mixed_in() -> None:
    own = torch.full((6,), 2.0)
    mixed = start_of_round(2, SHARED, 3, 1, own, alpha=0.25)
    assert mixed.values.tolist() == [3.5, 3.5, 2, 2, 2, 2]
    assert own.tolist() == [2.0] * 6


def test_with_one_fragment_every_round_starts_from_the_base() -> None:
    assert start_of_round(2, SHARED, 1, 1, OWN) is SHARED


# ---------------------------------------------------------------- what is owed


def test_what_a_fragment_owes_it_owes_until_its_next_turn() -> None:
    first, second, _ = fragments_of(THREE, 3)
    owed = first.owe(None, torch.tensor([1.0, 2.0]))
    owed = second.owe(owed, torch.tensor([3.0, 4.0]))
    assert owed is not None
    assert owed.tolist() == [1, 2, 3, 4, 0, 0]
    assert first.take(owed).tolist() == [1, 2]
    paid = first.owe(owed, None)
    assert paid is not None
    assert paid.tolist() == [0, 0, 3, 4, 0, 0]
    assert second.owe(None, None) is None
    (whole,) = fragments_of(THREE, 1)
    assert whole.owe(owed, None) is None
