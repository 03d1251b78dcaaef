"""Seeds are the same on every machine, and streams have nothing in common."""

from __future__ import annotations

import hashlib

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gobelin.shared.seeds import derive_seed, generator_of

PURPOSES = st.lists(st.integers(0, 1000) | st.text("abcxyz.-", max_size=6), max_size=4).map(tuple)


@given(st.integers(0, 2**63), PURPOSES)
def test_a_seed_fits_63_bits_and_comes_back(root: int, purpose: tuple[str | int, ...]) -> None:
    seed = derive_seed(root, *purpose)
    assert 0 <= seed < 2**63
    assert derive_seed(root, *purpose) == seed


def test_the_derivation_is_pinned() -> None:
    """Every digest of a federation hangs on it: it must not change with a release."""
    data = hashlib.sha256(b"7\0node\0north").digest()[:8]
    assert derive_seed(7, "node", "north") == int.from_bytes(data, "big") // 2
    assert derive_seed(7, "node", "north") == 3204717484832247814


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((0,), (1,)),
        ((0, "a"), (0, "b")),
        ((0, "a", 1), (0, "a", 2)),
        ((0, "a", 1), (0, 1, "a")),
        ((0, "ab", "c"), (0, "a", "bc")),
        ((1, "2"), (12,)),
        ((0, "a"), (0, "a", "")),
    ],
)
def test_another_root_purpose_or_order_gives_another_seed(
    one: tuple[int, str], other: tuple[int, str]
) -> None:
    assert derive_seed(*one) != derive_seed(*other)


def test_no_two_steps_of_no_two_nodes_share_a_seed() -> None:
    seeds = {derive_seed(0, "node", n, s) for n in ("north", "south") for s in range(5000)}
    assert len(seeds) == 10_000


def test_neighbouring_steps_draw_unrelated_numbers() -> None:
    draws = [torch.randn(4096, generator=generator_of(0, "step", step)) for step in range(4)]
    correlation = torch.corrcoef(torch.stack(draws)) - torch.eye(4)
    assert float(correlation.abs().max()) < 0.1


def test_a_generator_repeats_and_leaves_the_global_one_alone() -> None:
    before = torch.get_rng_state()
    one = torch.rand(8, generator=generator_of(3, "x"))
    assert torch.equal(one, torch.rand(8, generator=generator_of(3, "x")))
    assert not torch.equal(one, torch.rand(8, generator=generator_of(3, "y")))
    assert torch.equal(torch.get_rng_state(), before)
