"""Sources: three formats, the same images; every bad input is one typed error that names it."""

import gzip
import io
import struct
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from gobelin.shared.data import ImageFormat, MemorySource, Subset, open_source
from gobelin.shared.data.export import write_idx, write_image_folder, write_parquet
from gobelin.shared.data.row_groups import KEPT
from gobelin.shared.errors import ConfigError, DataError

NAMES = ("ant", "bee", "cat")
TINY = 1000  # bytes of memory: everything is streamed


def some_images(count=60, channels=1, size=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, channels, size, size), generator=generator)
    labels = torch.arange(count) * len(NAMES) // count  # sorted, as a folder of classes is
    return images.to(torch.uint8), labels


def opened(path, channels=1, size=8, **settings):
    return open_source(path, ImageFormat(size, channels), **settings)


def png(array):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


WRITERS = {
    "idx": lambda path, images, labels: write_idx(path, images, labels),
    "parquet": lambda path, images, labels: write_parquet(
        path, images, labels, NAMES, rows_per_group=16
    ),
    "folder": lambda path, images, labels: write_image_folder(path, images, labels, NAMES),
}


@pytest.mark.parametrize("memory", [TINY, 2**28])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", WRITERS)
def test_every_format_gives_the_same_bytes(tmp_path, kind, channels, memory):
    images, labels = some_images(channels=channels)
    WRITERS[kind](tmp_path / "data", images, labels)
    source = opened(tmp_path / "data", channels=channels, memory=memory)
    order = np.random.default_rng(1).permutation(len(images))
    assert torch.equal(source.read(order), images[order])
    assert torch.equal(source.labels, labels)
    assert len(source) == len(images)
    if kind != "idx":
        assert source.class_names == NAMES


def test_a_compressed_idx_file_too_large_for_memory_is_the_same(tmp_path):
    images, labels = some_images()
    write_idx(tmp_path / "data", images, labels)
    for file in list((tmp_path / "data").iterdir()):
        file.with_name(f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes()))
        file.unlink()
    for memory in (TINY, 2**28):
        source = opened(tmp_path / "data", memory=memory)
        assert torch.equal(source.read(np.arange(60)), images)
        assert torch.equal(source.labels, labels)


@pytest.mark.parametrize("ipc", ["file", "stream"])
def test_arrow_files_and_streams_are_read(tmp_path, ipc):
    images, labels = some_images()
    raw = pa.FixedSizeListArray.from_arrays(pa.array(images.flatten().numpy()), 64)
    table = pa.table({"img": raw, "label": labels.numpy()})
    new = pa.ipc.new_file if ipc == "file" else pa.ipc.new_stream
    with new(str(tmp_path / "a.arrow"), table.schema) as writer:
        writer.write_table(table, max_chunksize=7)
    for memory in (TINY, 2**28):
        source = opened(tmp_path / "a.arrow", memory=memory)
        assert torch.equal(source.read(np.arange(60)[::-1].copy()), images.flip(0))
        assert torch.equal(source.labels, labels)


def test_a_parquet_file_of_one_huge_row_group_is_cut_into_blocks(tmp_path):
    images, labels = some_images(count=400)
    write_parquet(tmp_path / "data", images, labels, rows_per_group=400)
    source = opened(tmp_path / "data", memory=20_000)
    assert source.block < 400 // KEPT
    order = np.random.default_rng(0).permutation(400)
    assert torch.equal(source.read(order), images[order])


def test_shards_of_one_split_are_one_source_and_two_splits_are_refused(tmp_path):
    images, labels = some_images()
    for part, name in ((slice(0, 30), "train-0.parquet"), (slice(30, 60), "train-1.parquet")):
        write_parquet(tmp_path / "one", images[part], labels[part])
        (tmp_path / "all").mkdir(exist_ok=True)
        (tmp_path / "one" / "images.parquet").rename(tmp_path / "all" / name)
    assert torch.equal(opened(tmp_path / "all").read(np.arange(60)), images)
    (tmp_path / "all" / "train-1.parquet").rename(tmp_path / "all" / "test-0.parquet")
    with pytest.raises(DataError, match="splits test, train"):
        opened(tmp_path / "all")


def test_images_of_another_size_and_colour_are_converted(tmp_path):
    wide = np.zeros((20, 40, 3), np.uint8)
    wide[:, 20:] = 255
    (tmp_path / "wide.png").write_bytes(png(wide))
    assert opened(tmp_path).read(np.array([0])).shape == (1, 1, 8, 8)
    colour = opened(tmp_path, channels=3).read(np.array([0]))[0]
    assert colour[:, :, 0].max() < 50  # the middle square is kept: black left,
    assert colour[:, :, -1].min() > 200  # white right


def test_sixteen_bit_grey_keeps_its_high_byte(tmp_path):
    deep = (np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "scan.png")
    assert torch.equal(
        opened(tmp_path).read(np.array([0]))[0, 0], torch.from_numpy(deep >> 8).byte()
    )


def test_images_beside_class_folders_have_no_labels(tmp_path):
    images, labels = some_images()
    write_image_folder(tmp_path / "data", images, labels, NAMES)
    (tmp_path / "data" / "stray.png").write_bytes(png(images[0, 0].numpy()))
    assert opened(tmp_path / "data").labels is None


def test_a_subset_reads_its_own_images_and_labels():
    images, labels = some_images()
    part = Subset(MemorySource(images, labels, NAMES), np.array([5, 50, 7]))
    assert torch.equal(part.read(np.array([2, 0])), images[[7, 5]])
    assert part.labels.tolist() == labels[[5, 50, 7]].tolist()


# Bad input


def test_a_missing_an_empty_and_a_strange_folder_are_told_apart(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        opened(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty folder"):
        opened(tmp_path / "empty")
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(DataError, match="no images Gobelin can read"):
        opened(tmp_path)


def test_a_folder_with_two_formats_is_refused(tmp_path):
    images, labels = some_images()
    write_idx(tmp_path / "data", images, labels)
    (tmp_path / "data" / "one.png").write_bytes(png(images[0, 0].numpy()))
    with pytest.raises(DataError, match="IDX files and an image folder"):
        opened(tmp_path / "data")


@pytest.mark.parametrize("memory", [TINY, 2**28])
@pytest.mark.parametrize("damage", [b"", b"not an image", None])
def test_an_unreadable_image_is_named(tmp_path, damage, memory):
    images, labels = some_images()
    write_image_folder(tmp_path / "data", images, labels, NAMES)
    victim = tmp_path / "data" / "bee" / "0000025.png"
    victim.write_bytes(victim.read_bytes()[:-30] if damage is None else damage)
    with pytest.raises(DataError, match=r"bee/0000025\.png is not a readable image") as caught:
        opened(tmp_path / "data", memory=memory).read(np.arange(60))
    assert str(tmp_path) not in str(caught.value)


def test_unreadable_images_are_skipped_when_the_setting_says_so(tmp_path, caplog):
    images, labels = some_images()
    write_image_folder(tmp_path / "data", images, labels, NAMES)
    (tmp_path / "data" / "bee" / "0000025.png").write_bytes(b"")
    kept = opened(tmp_path / "data", on_bad="skip")
    assert len(kept) == len(kept.labels) == 59
    streamed = opened(tmp_path / "data", on_bad="skip", memory=TINY)
    assert len(streamed) == 60  # the order of batches must not change under way
    assert torch.equal(streamed.read(np.array([25]))[0], images[26])
    assert streamed.skipped.total == 1
    assert streamed.skipped.facts() == {
        "not a readable image": {"count": 1, "first": ["bee/0000025.png"]}
    }
    assert kept.skipped.facts() == streamed.skipped.facts()
    assert "bee/0000025.png" in caplog.text


def test_a_folder_without_one_readable_image_is_refused_even_when_skipping(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    for memory in (0, 2**28):
        with pytest.raises(DataError, match="no readable image"):
            opened(tmp_path, on_bad="skip", memory=memory).read(np.array([0]))


def test_a_truncated_idx_file_is_refused_compressed_or_not(tmp_path):
    images, labels = some_images()
    write_idx(tmp_path / "data", images, labels)
    file = tmp_path / "data" / "images-idx3-ubyte"
    whole = file.read_bytes()
    for cut in (3, 10, len(whole) - 1):
        file.write_bytes(whole[:cut])
        with pytest.raises(DataError):
            opened(tmp_path / "data")
    file.unlink()
    packed = file.with_name(f"{file.name}.gz")
    for content in (gzip.compress(whole[:-1]), gzip.compress(whole)[:-20], b"no gzip"):
        packed.write_bytes(content)
        for memory in (TINY, 2**28):
            with pytest.raises(DataError):
                opened(tmp_path / "data", memory=memory)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"\x89PNG\r\n", "no IDX file"),
        (struct.pack(">HBB3I", 0, 0x0D, 3, 1, 8, 8) + bytes(256), "IDX type 0x0d"),
        (struct.pack(">HBB3I", 0, 8, 3, 0, 8, 8), "holds no images"),
        (struct.pack(">HBB3I", 0, 8, 3, 1, 9, 9) + bytes(81), "9 x 9 x 1 images"),
        (struct.pack(">HBB3I", 0, 8, 3, 1, 8, 8) + bytes(65), "longer than"),
        (struct.pack(">HBB2I", 0, 8, 2, 8, 8) + bytes(64), "2 dimensions"),
    ],
)
def test_a_wrong_idx_file_is_refused_with_what_is_wrong(tmp_path, content, says):
    (tmp_path / "images-idx3-ubyte").write_bytes(content)
    with pytest.raises(DataError, match=says):
        opened(tmp_path)


def test_a_label_file_of_another_length_is_refused(tmp_path):
    images, labels = some_images()
    write_idx(tmp_path / "data", images, labels)
    short = struct.pack(">HBBI", 0, 8, 1, 59) + bytes(59)
    (tmp_path / "data" / "labels-idx1-ubyte").write_bytes(short)
    with pytest.raises(DataError, match="59 labels for 60 images"):
        opened(tmp_path / "data")


def test_a_parquet_file_without_an_image_column_is_refused_with_its_columns(tmp_path):
    pq.write_table(pa.table({"text": ["a"], "label": [1]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"no image column.*text, label"):
        opened(tmp_path)


def test_damaged_and_empty_and_unlabelled_rows_of_parquet_are_refused(tmp_path):
    file = tmp_path / "a.parquet"
    file.write_bytes(b"PAR1 but no more")
    with pytest.raises(DataError, match="cannot be read"):
        opened(file)
    pq.write_table(pa.table({"image": pa.array([], pa.binary())}), file)
    with pytest.raises(DataError, match="no rows"):
        opened(file)
    good = png(np.zeros((8, 8), np.uint8))
    pq.write_table(pa.table({"image": [good, good], "label": pa.array([1, None])}), file)
    with pytest.raises(DataError, match="without a label"):
        opened(file)
    pq.write_table(pa.table({"image": [good, None]}), file)
    for memory in (0, 2**28):
        with pytest.raises(DataError, match=r"a\.parquet, row 1 is not a readable image"):
            opened(file, memory=memory).read(np.arange(2))


@pytest.mark.parametrize("memory", [0, 2**28])
def test_a_row_without_raw_pixels_is_refused_or_skipped(tmp_path, memory):
    images, _ = some_images(5)
    rows = [image.flatten().numpy() for image in images]
    raw = pa.array([*rows[:2], None, *rows[2:]], pa.list_(pa.uint8(), 64))
    pq.write_table(pa.table({"image": raw}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"row 2 is not a stored image"):
        opened(tmp_path, memory=memory).read(np.arange(6))
    source = opened(tmp_path, memory=memory, on_bad="skip")
    order = np.arange(5) if memory else np.array([0, 1, 3, 4, 5])
    assert torch.equal(source.read(order), images)
    if not memory:
        assert torch.equal(source.read(np.array([2]))[0], images[2])  # the next stands in
    assert source.skipped.counts == {"not a stored image": 1}


def test_raw_pixels_of_another_size_are_refused(tmp_path):
    raw = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(81, np.uint8)), 81)
    pq.write_table(pa.table({"image": raw}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="81 bytes, the recipe expects 8 x 8 x 1"):
        opened(tmp_path)


def test_images_in_memory_must_be_bytes_and_as_many_as_the_labels():
    with pytest.raises(DataError, match="not uint8"):
        MemorySource(torch.zeros(2, 1, 8, 8))
    with pytest.raises(DataError, match="2 samples have 3 labels"):
        MemorySource(torch.zeros(2, 1, 8, 8, dtype=torch.uint8), torch.zeros(3))


def test_an_image_file_may_be_named_itself(tmp_path):
    images, labels = some_images()
    write_idx(tmp_path / "data", images, labels)
    assert len(opened(tmp_path / "data" / "images-idx3-ubyte")) == 60


@pytest.mark.parametrize(("kind", "library"), [("folder", "PIL"), ("parquet", "pyarrow")])
def test_a_missing_library_is_one_line_that_names_the_extra(tmp_path, monkeypatch, kind, library):
    WRITERS[kind](tmp_path / "data", *some_images())
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ConfigError, match=r"pip install 'gobelin\[(images|parquet)\]'"):
        opened(tmp_path / "data")
