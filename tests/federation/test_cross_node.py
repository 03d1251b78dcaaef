"""Rounds with cross-node SIGReg, in one process: the same bits again, other ones than plain."""

from __future__ import annotations

from collections.abc import Collection

import torch

from examples.in_process import federate_in_process
from gobelin.shared.data import MemorySource
from gobelin.shared.recipe import load_recipe
from gobelin.shared.seeds import generator_of


def digest(rounds: int, cross_node: bool, declining: Collection[str] = ()) -> str:
    members = {
        name: MemorySource(
            torch.randint(256, (40, 1, 28, 28), generator=generator_of(0, name)).to(torch.uint8)
        )
        for name in ("a", "b", "c")
    }
    recipe = load_recipe("toy")
    vector = federate_in_process(
        recipe, members, rounds, 2, 7, cross_node=cross_node, declining=declining
    )
    return vector.digest


def test_cross_node_rounds_repeat_to_the_byte_and_differ_from_plain_ones() -> None:
    assert digest(2, True) == digest(2, True) != digest(2, False)


def test_the_first_round_has_no_moments_to_go_by() -> None:
    assert digest(1, True) == digest(1, False)


def test_what_a_member_declines_to_say_changes_what_all_learn() -> None:
    assert len({digest(2, True), digest(2, True, ["c"]), digest(2, True, ["b"])}) == 3


def test_where_all_but_one_decline_the_rounds_are_plain() -> None:
    assert digest(2, True, ["b", "c"]) == digest(2, True, ["a", "b", "c"]) == digest(2, False)
