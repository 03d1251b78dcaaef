"""Rounds with cross-node SIGReg, in one process: the same bits again, other ones than plain."""

from __future__ import annotations

import pytest
import torch

from examples.in_process import CrossNode, federate_in_process
from gobelin.shared.data import MemorySource
from gobelin.shared.recipe import load_recipe
from gobelin.shared.seeds import generator_of


def digest(cross_node: CrossNode) -> str:
    members = {
        name: MemorySource(
            torch.randint(256, (40, 1, 28, 28), generator=generator_of(0, name)).to(torch.uint8)
        )
        for name in ("a", "b")
    }
    recipe = load_recipe("toy")
    return federate_in_process(recipe, members, 2, 2, 7, cross_node=cross_node).digest


@pytest.mark.parametrize("form", ["sketch", "moments"])
def test_cross_node_rounds_repeat_to_the_byte_and_differ_from_plain_ones(form: CrossNode) -> None:
    assert digest(form) == digest(form)
    assert digest(form) != digest("no")
