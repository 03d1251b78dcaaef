"""Series: three formats, the same windows at the recipe's rate; what is missing stays missing."""

import tracemalloc
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gobelin.shared.data import BatchStream, SeriesFormat, open_source
from gobelin.shared.data.resample import Resampler
from gobelin.shared.errors import ConfigError, DataError

FORM = SeriesFormat(length=8, channels=2, stride=4)


def some_series(count=3, rows=20, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((count, rows, 2)).astype(np.float32)


def columns(values, labels=None, times=None):
    count, rows, _ = values.shape
    flat = values.reshape(-1, 2)
    table = {"series": np.repeat(np.arange(count), rows), "x": flat[:, 0], "y": flat[:, 1]}
    if labels is not None:
        table["label"] = list(np.repeat(labels, rows))
    if times is not None:
        table["time"] = np.tile(times, count)
    table["who"] = ["text is no channel"] * len(flat)
    return table


def write_csv(folder, values, labels=None, times=None):
    folder.mkdir(parents=True)
    table = columns(values, labels, times)
    lines = [",".join(table)]
    for row in zip(*table.values(), strict=True):
        cells = ["" if isinstance(c, float | np.floating) and np.isnan(c) else str(c) for c in row]
        lines.append(",".join(cells))
    (folder / "a.csv").write_text("\n".join(lines) + "\n")


def write_parquet(folder, values, labels=None, times=None):
    folder.mkdir(parents=True)
    pq.write_table(pa.table(columns(values, labels, times)), folder / "a.parquet", row_group_size=7)


def write_npz(folder, values, labels=None, times=None):
    folder.mkdir(parents=True)
    arrays = {"values": values}
    if labels is not None:
        names = sorted(set(labels))
        arrays |= {"labels": [names.index(label) for label in labels], "class_names": names}
    if times is not None:
        arrays["time"] = np.tile(times, (len(values), 1))
    np.savez(folder / "a.npz", **arrays)


WRITERS = {"csv": write_csv, "parquet": write_parquet, "npz": write_npz}


def everything(source):
    return source.read(np.arange(len(source))).numpy()


@pytest.mark.parametrize("memory", [0, 2**28])
@pytest.mark.parametrize("kind", WRITERS)
def test_every_format_gives_the_same_windows(tmp_path, kind, memory):
    values = some_series()
    values[1, 5, 0] = np.nan
    WRITERS[kind](tmp_path / "data", values, labels=["walk", "run", "walk"])
    source = open_source(tmp_path / "data", FORM, memory=memory)
    expected = [series[s : s + 8] for series in values for s in (0, 4, 8, 12)]
    assert np.array_equal(everything(source), np.stack(expected), equal_nan=True)
    assert everything(source).dtype == np.float32
    assert source.class_names == ("run", "walk")
    assert source.labels.tolist() == [1] * 4 + [0] * 4 + [1] * 4


@pytest.mark.parametrize("compressed", [False, True])
def test_an_npz_file_may_hold_series_of_differing_length(tmp_path, compressed):
    values = some_series(1, 30)[0]
    save = np.savez_compressed if compressed else np.savez
    save(tmp_path / "a.npz", values=np.asfortranarray(values), lengths=[9, 5, 16])
    windows = everything(open_source(tmp_path, FORM, memory=100))
    assert np.array_equal(windows[0], values[:8])
    assert np.array_equal(windows[1][:5], values[9:14])
    assert np.isnan(windows[1][5:]).all()  # shorter than a window
    assert np.array_equal(windows[2:], [values[s : s + 8] for s in (14, 18, 22)])


def test_a_change_of_label_begins_a_new_series(tmp_path):
    rows = [f"{i},0,{'sit' if i < 10 else 'stand'}" for i in range(20)]
    (tmp_path / "a.csv").write_text("x,y,label\n" + "\n".join(rows) + "\n")
    source = open_source(tmp_path, FORM)
    assert source.labels.tolist() == [0, 1]
    assert everything(source)[:, 0, 0].tolist() == [0, 10]


@pytest.mark.parametrize("kind", WRITERS)
def test_no_window_crosses_from_one_file_into_the_next(tmp_path, kind):
    values = some_series(2, 10)
    for i in range(2):
        WRITERS[kind](tmp_path / str(i), values[i : i + 1])
    (tmp_path / "all").mkdir()
    for i in range(2):
        file = next((tmp_path / str(i)).iterdir())
        file.rename(tmp_path / "all" / f"{i}{file.suffix}")
    assert np.array_equal(everything(open_source(tmp_path / "all", FORM)), values[:, :8])


def test_a_stream_goes_on_at_the_same_samples_when_series_are_opened_again(tmp_path):
    write_parquet(tmp_path / "data", some_series(9))
    first = BatchStream(open_source(tmp_path / "data", FORM), 6, seed=5)
    expected = [first.batch(step) for step in range(12)]
    again = BatchStream(open_source(tmp_path / "data", FORM, memory=0), 6, seed=5)
    assert all(torch.equal(again.batch(step), expected[step]) for step in (11, 3, 8))


def test_series_larger_than_memory_stay_on_disk(tmp_path):
    line = "0.25,-1.5\n" * 1000
    with (tmp_path / "a.csv").open("w") as file:
        file.write("x,y\n")
        for _ in range(2000):  # two million rows: 16 MB as float32
            file.write(line)
    tracemalloc.start()
    source = open_source(tmp_path, SeriesFormat(256, 2, 256), memory=2**20)
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(source) == 2_000_000 // 256
    assert held < 2**20
    assert peak < 2**24
    assert source.read(np.array([5000])).unique().tolist() == [-1.5, 0.25]


# Resampling


def resampled(times, values, rate, cuts=()):
    resampler, made = Resampler(rate), []
    for start, stop in pairwise([0, *cuts, len(times)]):
        made.append(resampler.push(times[start:stop], values[start:stop]))
    made.append(resampler.finish())
    return np.concatenate([m.reshape(-1, values.shape[1]) for m in made])


@given(
    rows=st.integers(10, 60),
    rate=st.floats(0.5, 40),
    cuts=st.sets(st.integers(5, 59), max_size=4),
    origin=st.floats(0, 1e6),
)
@settings(max_examples=100, deadline=None)
def test_resampling_is_linear_interpolation_however_the_series_is_cut(rows, rate, cuts, origin):
    times = origin + np.arange(rows) / 10
    values = np.random.default_rng(rows).standard_normal((rows, 2))
    found = resampled(times, values, rate, sorted(c for c in cuts if c < rows))
    grid = times[0] + np.arange(len(found)) / rate
    expected = np.stack([np.interp(grid, times, column) for column in values.T], axis=1)
    assert np.allclose(found, expected, atol=1e-4)
    assert times[-1] - grid[-1] < 1 / rate + 1e-6


def test_the_same_rate_changes_nothing_though_times_are_rounded():
    times = np.round(np.arange(500) / 50, 2) + 1_700_000_000
    values = np.random.default_rng(0).standard_normal((500, 3))
    assert np.array_equal(resampled(times, values, 50, (100, 101)), values)


def test_gaps_and_missing_values_stay_missing():
    times = np.array([0.0, 1, 2, 3, 6, 7, 8])
    values = np.array([[0.0, 0], [1, 1], [2, np.nan], [3, 3], [6, 6], [7, 7], [8, 8]])
    found = resampled(times, values, 2.0)
    assert np.isnan(found[7:12]).all()  # between 3 s and 6 s
    assert not np.isnan(found[[*range(7), *range(12, 17)], 0]).any()
    assert np.isnan(found[3:6, 1]).all()  # about the missing value, of its channel alone
    assert found[12].tolist() == [6, 6]


@pytest.mark.parametrize("kind", WRITERS)
def test_times_bring_a_series_to_the_recipes_rate(tmp_path, kind):
    values = some_series(rows=41)
    WRITERS[kind](tmp_path / "data", values, times=np.arange(41) / 100)
    windows = everything(open_source(tmp_path / "data", SeriesFormat(8, 2, 8, rate=50.0)))
    assert np.array_equal(windows, values[:, ::2][:, :16].reshape(6, 8, 2))


def test_a_rate_stands_in_for_times(tmp_path):
    values = some_series(rows=41)
    np.savez(tmp_path / "a.npz", values=values, rate=100)
    form = SeriesFormat(8, 2, 8, rate=50.0)
    assert np.array_equal(everything(open_source(tmp_path, form))[0], values[0, :16:2])
    table = pa.table({"x": values[0, :, 0], "y": values[0, :, 1]})
    pq.write_table(table.replace_schema_metadata({"rate": "100"}), tmp_path / "b.parquet")
    found = everything(open_source(tmp_path / "b.parquet", form))
    assert np.array_equal(found[0], values[0, :16:2])
    pq.write_table(table, tmp_path / "b.parquet")
    with pytest.raises(DataError, match="neither a column 'time' nor a rate"):
        open_source(tmp_path / "b.parquet", form)


def test_timestamps_are_times(tmp_path):
    values = some_series(1, 41)
    stamps = np.datetime64("2024-05-01T00:00:00") + np.arange(41) * np.timedelta64(10, "ms")
    write_parquet(tmp_path / "data", values, times=stamps)
    windows = everything(open_source(tmp_path / "data", SeriesFormat(8, 2, 8, rate=50.0)))
    assert np.allclose(windows[0], values[0, :16:2], atol=1e-5)


# Bad input


@pytest.mark.parametrize("memory", [0, 2**28])
@pytest.mark.parametrize("kind", WRITERS)
def test_infinite_values_are_refused_or_their_windows_skipped(tmp_path, kind, memory, caplog):
    values = some_series()
    values[1, 6, 1] = -np.inf
    WRITERS[kind](tmp_path / "data", values)
    with pytest.raises(DataError, match=r"series 1, steps 0 to 7 is a window with an infinite"):
        open_source(tmp_path / "data", FORM, memory=memory)
    source = open_source(tmp_path / "data", FORM, on_bad="skip", memory=memory)
    assert len(source) == 10
    assert np.isfinite(everything(source)).all()
    assert source.skipped.counts == {"a window with an infinite value": 2}
    assert "series 1, steps 4 to 11" in caplog.text


def test_a_value_too_large_for_float32_is_infinite(tmp_path):
    (tmp_path / "a.csv").write_text("x,y\n" + "1e300,0\n" * 10)
    with pytest.raises(DataError, match="an infinite value"):
        open_source(tmp_path, FORM)


def test_missing_values_are_bad_input_where_the_format_admits_none(tmp_path):
    values = some_series()
    values[2, 19] = np.nan
    write_csv(tmp_path / "data", values)
    strict = SeriesFormat(8, 2, 4, missing=False)
    assert np.isnan(everything(open_source(tmp_path / "data", FORM))).any()
    with pytest.raises(DataError, match="series 2, steps 12 to 19 is a window with a missing"):
        open_source(tmp_path / "data", strict)
    source = open_source(tmp_path / "data", strict, on_bad="skip")
    assert len(source) == 11
    assert not np.isnan(everything(source)).any()


def test_short_empty_and_valueless_series_are_bad_input(tmp_path):
    values = some_series(1, 20)[0]
    np.savez(tmp_path / "a.npz", values=values, lengths=[0, 5, 15])
    with pytest.raises(DataError, match=r"a\.npz, series 0 is an empty series"):
        open_source(tmp_path, SeriesFormat(8, 2, 4, missing=False))
    source = open_source(tmp_path, SeriesFormat(8, 2, 4, missing=False), on_bad="skip")
    assert source.skipped.counts == {"an empty series": 1, "a series shorter than a window": 1}
    (tmp_path / "header.csv").write_text("x,y\n")
    with pytest.raises(DataError, match=r"header\.csv is an empty series"):
        open_source(tmp_path / "header.csv", FORM)
    (tmp_path / "header.csv").unlink()
    np.savez(tmp_path / "a.npz", values=np.full((2, 8, 2), np.nan))
    with pytest.raises(DataError, match="a window without any value"):
        open_source(tmp_path, FORM)
    with pytest.raises(DataError, match="no window that can be used"):
        open_source(tmp_path, FORM, on_bad="skip")


@pytest.mark.parametrize("kind", WRITERS)
def test_times_that_do_not_increase_are_bad_input(tmp_path, kind):
    times = np.arange(20) / 50
    times[9] = times[8]
    WRITERS[kind](tmp_path / "data", some_series(2), times=times)
    form = SeriesFormat(8, 2, 4, rate=50.0)
    with pytest.raises(DataError, match="a series whose times do not increase"):
        open_source(tmp_path / "data", form)
    with pytest.raises(DataError, match="no window"):
        open_source(tmp_path / "data", form, on_bad="skip")


def test_another_number_of_channels_is_refused_with_the_columns(tmp_path):
    for kind, write in WRITERS.items():
        write(tmp_path / kind, some_series())
        with pytest.raises(DataError, match=r"2 channels.* the recipe expects 3"):
            open_source(tmp_path / kind, SeriesFormat(8, 3, 4), on_bad="skip")


def test_a_csv_file_that_turns_into_something_else_leaves_no_trace(tmp_path):
    write_csv(tmp_path / "data", some_series())
    good = everything(open_source(tmp_path / "data", FORM))
    filler = "\n".join("7,7" for _ in range(60_000))
    (tmp_path / "data" / "b.csv").write_text(f"x,y\n{filler}\noops,1\n")
    with pytest.raises(DataError, match=r"b\.csv is no table of numbers"):
        open_source(tmp_path / "data", FORM, memory=2**19)
    source = open_source(tmp_path / "data", FORM, on_bad="skip", memory=2**19)
    assert np.array_equal(everything(source), good)
    assert source.skipped.facts() == {"no table of numbers": {"count": 1, "first": ["b.csv"]}}


@pytest.mark.parametrize("cut", [100, -30])
def test_a_damaged_npz_file_is_refused(tmp_path, cut):
    write_npz(tmp_path / "data", some_series())
    file = tmp_path / "data" / "a.npz"
    whole = file.read_bytes()
    file.write_bytes(whole[:cut])
    with pytest.raises(DataError, match=r"no \.npz file that can be read"):
        open_source(tmp_path / "data", FORM)
    middle = bytearray(whole)
    middle[200] ^= 1
    file.write_bytes(middle)
    with pytest.raises(DataError, match="BadZipFile"):
        open_source(tmp_path / "data", FORM)


def test_pickles_are_never_loaded(tmp_path):
    np.savez(tmp_path / "a.npz", values=np.array([{"a": 1}], dtype=object))
    with pytest.raises(DataError, match="holds Python objects"):
        open_source(tmp_path, FORM)


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"data": np.zeros((2, 9, 2))}, "no such array"),
        ({"values": np.zeros((9, 2)), "lengths": [4, 4]}, "do not add up"),
        ({"values": np.zeros((2, 9, 2)), "labels": [0]}, "no 2 numbers of classes"),
        ({"values": np.zeros((1, 9, 2)), "labels": [3], "class_names": ["a"]}, "no 1 numbers"),
        ({"values": np.zeros((2, 9, 2)), "time": np.zeros(9)}, "9 times for 18 rows"),
    ],
)
def test_a_wrong_npz_file_is_refused_with_what_is_wrong(tmp_path, arrays, says):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(DataError, match=says):
        open_source(tmp_path, FORM)


def test_a_rate_must_be_one():
    for rate in (0, -1, float("nan")):
        with pytest.raises(ConfigError, match="Hz"):
            SeriesFormat(8, 2, 4, rate=rate)
