"""The batch stream: each image once an epoch, whatever is asked for first."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gobelin.shared.data import BadInput, BatchStream, MemorySource
from gobelin.shared.data.stream import WINDOW
from gobelin.shared.errors import DataError


class Numbers:
    """A source whose image i has the value i, for any `block`."""

    labels = class_names = None
    skipped = BadInput()

    def __init__(self, count, block=None):
        self.count, self.block = count, block

    def __len__(self):
        return self.count

    def read(self, indices):
        return torch.from_numpy(indices)


sources = st.builds(Numbers, st.integers(1, 60), st.none() | st.integers(1, 20))


@given(source=sources, batch=st.integers(1, 25), seed=st.integers(0, 2**62), epochs=st.just(3))
@settings(max_examples=60, deadline=None)
def test_every_image_comes_exactly_once_an_epoch(source, batch, seed, epochs):
    stream = BatchStream(source, batch, seed)
    steps = -(-epochs * len(source) // batch)
    drawn = np.concatenate([stream.indices(step) for step in range(steps)])
    for epoch in range(epochs):
        part = drawn[epoch * len(source) : (epoch + 1) * len(source)]
        assert sorted(part.tolist()) == list(range(len(source)))


@given(source=sources, batch=st.integers(1, 25), steps=st.lists(st.integers(0, 50), max_size=8))
@settings(max_examples=60, deadline=None)
def test_a_batch_is_a_pure_function_of_seed_and_step(source, batch, steps):
    wandering = BatchStream(source, batch, seed=3)
    for step in steps:
        fresh = BatchStream(source, batch, seed=3)
        assert torch.equal(wandering.batch(step), fresh.batch(step))
        assert len(fresh.batch(step)) == batch


def test_seeds_and_epochs_differ_in_order():
    source = Numbers(100)
    first = BatchStream(source, 100, seed=0)
    assert first.indices(0).tolist() != first.indices(1).tolist()
    assert first.indices(0).tolist() != BatchStream(source, 100, seed=1).indices(0).tolist()


def test_a_stream_over_blocks_stays_within_a_window_of_them():
    source = Numbers(1000, block=10)
    stream = BatchStream(source, 8, seed=0)
    blocks_met = [set((stream.indices(step) // 10).tolist()) for step in range(125)]
    assert max(map(len, blocks_met)) <= 2 * WINDOW
    changes = sum(len(now - before) for before, now in pairwise(blocks_met))
    assert changes < 1000  # in any order, eight new blocks a batch
    order = np.concatenate([stream.indices(step) for step in range(125)])
    assert order[:40].tolist() != sorted(order[:40].tolist())


def test_a_source_smaller_than_a_batch_wraps():
    stream = BatchStream(Numbers(3), 8, seed=0)
    assert np.bincount(stream.indices(0), minlength=3).tolist() in ([3, 3, 2], [3, 2, 3], [2, 3, 3])


def test_an_empty_source_and_an_empty_batch_are_refused():
    empty = MemorySource(torch.zeros(0, 1, 8, 8, dtype=torch.uint8))
    with pytest.raises(DataError, match="no samples"):
        BatchStream(empty, 8, seed=0)
    with pytest.raises(DataError, match="batch of 0"):
        BatchStream(Numbers(3), 0, seed=0)
