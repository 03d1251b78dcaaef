"""Episodes: every layout gives the same windows; none crosses from one episode into the next."""

import sys
import tracemalloc

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gobelin.shared.data import BatchStream, Trajectories, TrajectoryFormat, open_source
from gobelin.shared.errors import ConfigError, DataError

VECTORS = TrajectoryFormat(steps=3, actions=2, observation="vector", channels=4)
PIXELS = TrajectoryFormat(steps=3, actions=2, observation="pixels", channels=3, image_size=5)


def episodes(lengths=(6, 3, 9), form=VECTORS, seed=0):
    rng = np.random.default_rng(seed)
    out = []
    for length in lengths:
        if form.image_size is None:
            seen = rng.standard_normal((length + 1, *form.shape)).astype(np.float32)
        else:
            seen = rng.integers(0, 256, (length + 1, *form.shape)).astype(np.uint8)
        out.append((seen, rng.standard_normal((length, 2)).astype(np.float32)))
    return out


def in_a_row(parts):
    return {
        "observations": np.concatenate([seen for seen, _ in parts]),
        "actions": np.concatenate([done for _, done in parts]),
        "lengths": np.array([len(done) for _, done in parts]),
    }


def write_npz_row(folder, parts):
    folder.mkdir(parents=True)
    np.savez(folder / "a.npz", **in_a_row(parts))


def write_npz_compressed(folder, parts):
    folder.mkdir(parents=True)
    np.savez_compressed(folder / "a.npz", **in_a_row(parts))


def write_npz_files(folder, parts):
    folder.mkdir(parents=True)
    for i, (seen, done) in enumerate(parts):
        np.savez(folder / f"{i}.npz", observations=seen, actions=done)


def write_hdf5_groups(folder, parts):
    folder.mkdir(parents=True)
    with h5py.File(folder / "a.h5", "w") as file:
        for i, (seen, done) in enumerate(parts):
            group = file.create_group(f"data/episode_{i}")
            group.create_dataset("observations", data=seen, compression="gzip", chunks=True)
            group.create_dataset("actions", data=done)


def write_hdf5_row(folder, parts):
    folder.mkdir(parents=True)
    with h5py.File(folder / "a.hdf5", "w") as file:
        for name, array in in_a_row(parts).items():
            file[name] = array


WRITERS = [
    write_npz_row, write_npz_compressed, write_npz_files, write_hdf5_groups, write_hdf5_row,
]  # fmt: skip


def windows_of(parts, steps=3, stride=1):
    for seen, done in parts:
        for start in range(0, len(done) - steps + 1, stride):
            yield seen[start : start + steps + 1], done[start : start + steps]


def require_equal(batch, expected):
    seen, done = zip(*expected, strict=True)
    assert isinstance(batch, Trajectories)
    assert np.array_equal(batch.observations.numpy(), np.stack(seen))
    assert np.array_equal(batch.actions.numpy(), np.stack(done))
    assert batch.actions.dtype == torch.float32


@pytest.mark.parametrize("memory", [0, 2**28])
@pytest.mark.parametrize("form", [VECTORS, PIXELS], ids=["vectors", "pixels"])
@pytest.mark.parametrize("write", WRITERS)
def test_every_layout_gives_the_same_windows(tmp_path, write, form, memory):
    parts = episodes(form=form)
    write(tmp_path / "data", parts)
    source = open_source(tmp_path / "data", form, memory=memory)
    expected = list(windows_of(parts))
    assert len(source) == len(expected) == 4 + 1 + 7
    require_equal(source.read(np.arange(len(source))), expected)
    order = np.array([7, 0, 11, 4])
    require_equal(source.read(order), [expected[i] for i in order])


@given(lengths=st.lists(st.integers(3, 12), min_size=1, max_size=5), stride=st.integers(1, 5))
@settings(max_examples=30, deadline=None)
def test_windows_stay_inside_their_episode(tmp_path_factory, lengths, stride):
    folder = tmp_path_factory.mktemp("episodes") / "data"
    parts = episodes(lengths)
    write_npz_row(folder, parts)
    form = TrajectoryFormat(3, 2, "vector", 4, stride=stride)
    source = open_source(folder, form)
    require_equal(source.read(np.arange(len(source))), list(windows_of(parts, stride=stride)))


def test_stacked_episodes_and_pixels_with_channels_last(tmp_path):
    parts = episodes((5, 5), PIXELS)
    seen, done = (np.stack(column) for column in zip(*parts, strict=True))
    np.savez(tmp_path / "a.npz", observations=np.moveaxis(seen, 2, -1), actions=done)
    source = open_source(tmp_path, PIXELS)
    require_equal(source.read(np.arange(len(source))), list(windows_of(parts)))


def test_an_action_after_the_last_observation_leads_nowhere(tmp_path):
    seen, done = episodes((6,))[0]
    np.savez(tmp_path / "a.npz", observations=seen[:-1], actions=done)
    source = open_source(tmp_path, VECTORS)
    require_equal(source.read(np.arange(len(source))), list(windows_of([(seen[:-1], done[:-1])])))


@pytest.mark.parametrize("write", [write_npz_row, write_hdf5_groups])
def test_a_stream_goes_on_at_the_same_samples_when_episodes_are_opened_again(tmp_path, write):
    write(tmp_path / "data", episodes((40, 3, 70)))
    first = BatchStream(open_source(tmp_path / "data", VECTORS, memory=0), 6, seed=5)
    expected = [first.batch(step) for step in range(30)]
    again = BatchStream(open_source(tmp_path / "data", VECTORS, memory=0), 6, seed=5)
    for step in (29, 3, 18):
        found = again.batch(step)
        assert torch.equal(found.observations, expected[step].observations)
        assert torch.equal(found.actions, expected[step].actions)


@pytest.mark.parametrize("write", [write_npz_row, write_npz_compressed])
def test_episodes_larger_than_memory_stay_on_disk(tmp_path, write):
    form = TrajectoryFormat(3, 2, "pixels", channels=3, image_size=64)
    seen = np.zeros((1001, 3, 64, 64), np.uint8)  # 12 MB
    write(tmp_path / "data", [(seen, np.zeros((1000, 2), np.float32))])
    tracemalloc.start()
    source = open_source(tmp_path / "data", form, memory=2**21)
    source.read(np.array([0, 500]))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 6 * 2**20


# Bad input


def ruin(parts, how):
    seen, done = parts[1]
    return {
        "wide": (seen, np.zeros((3, 3), np.float32)),
        "other": (seen[:, :3], done),
        "short": (seen[:3], done[:2]),
        "empty": (seen[:1], done[:0]),
        "uneven": (seen[:2], done),
        "nan action": (seen, np.where(np.arange(6).reshape(3, 2) == 3, np.nan, done)),
        "inf observation": (np.where(np.arange(16).reshape(4, 4) == 9, np.inf, seen), done),
        "integers": (seen.astype(np.uint8), done),
    }[how]


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("wide", "a set of actions of another width than 2"),
        ("other", "a set of observations that are not 4"),
        ("short", "an episode shorter than a window"),
        ("empty", "an empty episode"),
        ("uneven", "a set of episodes whose observations and actions do not match"),
        ("nan action", "an episode with values that are not finite"),
        ("inf observation", "an episode with values that are not finite"),
        ("integers", "a set of observations that are no vector"),
    ],
)
@pytest.mark.parametrize("write", [write_npz_files, write_hdf5_groups])
def test_bad_episodes_are_refused_or_skipped(tmp_path, write, how, says, caplog):
    parts = episodes()
    write(tmp_path / "data", [parts[0], ruin(parts, how), parts[2]])
    with pytest.raises(DataError, match=f"1.* is {says}"):
        open_source(tmp_path / "data", VECTORS)
    source = open_source(tmp_path / "data", VECTORS, on_bad="skip")
    require_equal(source.read(np.arange(len(source))), list(windows_of([parts[0], parts[2]])))
    assert source.skipped.counts == {says: 1}
    assert says in caplog.text


def test_lengths_that_do_not_add_up_are_refused(tmp_path):
    arrays = in_a_row(episodes())
    np.savez(tmp_path / "a.npz", **(arrays | {"lengths": np.array([6, 3, 8])}))
    with pytest.raises(DataError, match="do not match"):
        open_source(tmp_path, VECTORS)


def test_files_without_episodes_are_refused_even_when_skipping(tmp_path):
    np.savez(tmp_path / "a.npz", states=np.zeros(3))
    with pytest.raises(DataError, match="holds states, no `observations` and `actions`"):
        open_source(tmp_path, VECTORS, on_bad="skip")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["states"] = np.zeros(3)
    with pytest.raises(DataError, match="no HDF5 group"):
        open_source(tmp_path / "a.h5", VECTORS, on_bad="skip")
    (tmp_path / "a.h5").write_bytes(b"no HDF5")
    with pytest.raises(DataError, match="no HDF5 file that can be read"):
        open_source(tmp_path / "a.h5", VECTORS, on_bad="skip")
    np.savez(tmp_path / "a.npz", observations=np.zeros((2, 4)), actions=np.zeros((1, 2)))
    with pytest.raises(DataError, match="no episode that can be used"):
        open_source(tmp_path / "a.npz", VECTORS, on_bad="skip")


def test_a_missing_library_is_one_line_that_names_the_extra(tmp_path, monkeypatch):
    write_hdf5_row(tmp_path / "data", episodes())
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ConfigError, match=r"pip install 'gobelin\[hdf5\]'"):
        open_source(tmp_path / "data", VECTORS)


def test_pixels_have_a_size_and_vectors_none():
    with pytest.raises(ConfigError, match="image_size"):
        TrajectoryFormat(3, 2, "vector", 4, image_size=8)
    with pytest.raises(ConfigError, match="image_size"):
        TrajectoryFormat(3, 2, "pixels", 3)
