"""Partitions: every image has one owner, and skew is what was asked for."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gobelin.shared.data.partition import by_class, dirichlet, even, hold_out
from gobelin.shared.errors import DataError


@given(
    labels=st.lists(st.integers(0, 5), min_size=40, max_size=200),
    members=st.integers(1, 6),
    alpha=st.sampled_from([0.01, 0.3, 1.0, 100.0]),
    seed=st.integers(0, 1000),
    minimum=st.integers(0, 6),
)
@settings(max_examples=100, deadline=None)
def test_every_image_has_exactly_one_owner_and_no_member_is_short(
    labels, members, alpha, seed, minimum
):
    parts = dirichlet(torch.tensor(labels), members, alpha, seed, minimum)
    assert len(parts) == members
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(labels)))
    assert min(map(len, parts)) >= minimum
    again = dirichlet(torch.tensor(labels), members, alpha, seed, minimum)
    assert all(np.array_equal(a, b) for a, b in zip(parts, again, strict=True))


@given(
    labels=st.lists(st.integers(0, 5), min_size=40, max_size=200),
    members=st.integers(1, 20),
    seed=st.integers(0, 1000),
)
def test_even_and_by_class_give_every_image_one_owner_and_members_equally_many(
    labels, members, seed
):
    for parts, spread in (
        (even(len(labels), members, seed), 1),
        (by_class(torch.tensor(labels), members, seed), 2),  # of two shards, each one off at most
    ):
        assert len(parts) == members
        assert sorted(np.concatenate(parts).tolist()) == list(range(len(labels)))
        sizes = [len(part) for part in parts]
        assert max(sizes) - min(sizes) <= spread
        assert all(np.array_equal(part, np.sort(part)) for part in parts)


def test_by_class_gives_a_member_few_classes_and_even_gives_it_all():
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(10), 500))
    few = [len(np.unique(labels[part])) for part in by_class(labels, 10, seed=0)]
    assert max(few) <= 4  # a shard meets at most two classes
    assert all(len(np.unique(labels[part])) == 10 for part in even(len(labels), 10, seed=0))
    first = by_class(labels, 10, seed=0)[0]
    assert not np.array_equal(first, by_class(labels, 10, seed=1)[0])


def test_a_small_alpha_skews_labels_and_a_large_one_does_not():
    labels = np.repeat(np.arange(10), 500)

    def skew(alpha):
        parts = dirichlet(labels, 3, alpha, seed=0)
        shares = np.array([np.bincount(labels[p], minlength=10) for p in parts]) / 500
        return shares.std(axis=0).mean()

    assert skew(0.1) > 0.3 > 0.05 > skew(1000)


def test_what_is_held_out_and_what_is_kept_make_up_all():
    indices = np.arange(100, 200)
    kept, held = hold_out(indices, 0.2, seed=0)
    assert len(held) == 20
    assert sorted([*kept, *held]) == indices.tolist()
    assert not np.array_equal(held, hold_out(indices, 0.2, seed=1)[1])


def test_impossible_partitions_are_refused():
    with pytest.raises(DataError, match="3 images cannot give 4 members"):
        dirichlet(np.zeros(3, np.int64), 4, 1.0, seed=0)
    with pytest.raises(DataError, match="alpha = 0"):
        dirichlet(np.zeros(3, np.int64), 1, 0, seed=0)
    with pytest.raises(DataError, match="share of 1"):
        hold_out(np.arange(3), 1, seed=0)
