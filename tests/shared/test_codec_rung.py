"""The rung: the finest codec that keeps a budget, chosen before anything is encoded."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gobelin.shared import vector as vector_module
from gobelin.shared.codec import CODECS, CodecName, compress, pick_rung, rungs_from
from gobelin.shared.codec.rung import most_bytes
from gobelin.shared.errors import BudgetError, CodecError
from gobelin.shared.vector import ParameterSchema, ParameterVector

LADDER: list[CodecName] = ["fp32", "bf16", "int8", "int4", "topk"]
SCHEMA = ParameterSchema.of_shapes({"w": (90, 100), "b": (77,)})
with pytest.MonkeyPatch.context() as patch:
    patch.setattr(vector_module, "SEGMENT", 4096)
    assert len(SCHEMA.segments) == 3  # a schema keeps the segments it was first asked for

LEAST = most_bytes("topk", SCHEMA)
WHOLE = most_bytes("fp32", SCHEMA)


def test_the_ladder_goes_from_the_finest_to_the_coarsest() -> None:
    assert rungs_from("fp32") == LADDER == list(CODECS)
    assert rungs_from("int8") == ["int8", "int4", "topk"]
    sizes = [most_bytes(name, SCHEMA) for name in LADDER]
    assert sizes == sorted(sizes, reverse=True)
    with pytest.raises(CodecError, match="int4"):
        rungs_from("int3")


@pytest.mark.parametrize("asked", LADDER)
def test_without_a_budget_it_is_the_codec_asked_for(asked: str) -> None:
    assert pick_rung(asked, SCHEMA, None) == asked


@given(st.sampled_from(LADDER), st.floats(LEAST, 1.5 * WHOLE), st.integers(0, 99), st.booleans())
def test_the_finest_that_keeps_the_budget_is_taken_and_keeps_it(
    asked: CodecName, budget: float, seed: int, sparse: bool
) -> None:
    taken = pick_rung(asked, SCHEMA, budget)
    assert taken in rungs_from(asked)
    finer = [name for name in rungs_from(asked) if name not in rungs_from(taken)]
    assert all(most_bytes(name, SCHEMA) > budget for name in finer)
    values = torch.randn(SCHEMA.size, generator=torch.Generator().manual_seed(seed))
    values[:: 2 if sparse else SCHEMA.size] = 0
    made = compress(taken, ParameterVector(SCHEMA, values), None)
    assert made.payload.size <= budget


@pytest.mark.parametrize("asked", LADDER)
def test_a_budget_that_no_codec_keeps_is_an_error_that_names_budget_and_need(asked: str) -> None:
    with pytest.raises(BudgetError, match=r"budget is 0\.0001 MB .* up to 0\.000\d+ MB") as error:
        pick_rung(asked, SCHEMA, 100.0)
    assert error.value.code == "budget"
    assert pick_rung(asked, SCHEMA, float(LEAST)) == "topk"
