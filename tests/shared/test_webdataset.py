"""WebDataset shards: samples by basename, labels by .cls; damage is refused or counted."""

import io
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from gobelin.shared.data import BatchStream, ImageFormat, open_source
from gobelin.shared.errors import DataError

FORM = ImageFormat(8, 1)


def png(array):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def write_shard(path, members):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def some_images(count, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, 8, 8)).astype(np.uint8)


def members_of(images, first=0, labels=True):
    for i, image in enumerate(images, first):
        yield f"train/{i:04d}.json", b"{}"
        if labels:
            yield f"train/{i:04d}.cls", str(i % 3).encode()
        yield f"train/{i:04d}.png", png(image)


@pytest.fixture
def shards(tmp_path):
    images = some_images(50)
    write_shard(tmp_path / "data" / "000.tar", members_of(images[:30]))
    write_shard(tmp_path / "data" / "001.tar", members_of(images[30:], first=30))
    return tmp_path / "data", torch.from_numpy(images[:, None])


@pytest.mark.parametrize("memory", [0, 2**28])
def test_shards_are_one_source_in_the_order_of_their_names(shards, memory):
    path, images = shards
    source = open_source(path, FORM, memory=memory)
    order = np.random.default_rng(1).permutation(50)
    assert torch.equal(source.read(order), images[order])
    assert source.labels.tolist() == [i % 3 for i in range(50)]
    if not memory:
        assert source.block == 30


def test_a_stream_goes_on_at_the_same_samples_when_shards_are_opened_again(shards):
    path, _ = shards
    first = BatchStream(open_source(path, FORM, memory=0), 7, seed=5)
    expected = [first.batch(step) for step in range(12)]
    again = BatchStream(open_source(path, FORM, memory=0), 7, seed=5)
    assert all(torch.equal(again.batch(step), expected[step]) for step in (11, 3, 8))


def test_only_the_first_dot_ends_a_key(tmp_path):
    image, mask = some_images(2)
    path = write_shard(tmp_path / "a.tar", [("x.seg.png", png(mask)), ("x.png", png(image))])
    source = open_source(path, FORM)
    assert len(source) == 1
    assert source.labels is None
    assert torch.equal(source.read(np.array([0]))[0, 0], torch.from_numpy(image))


def test_names_longer_than_a_tar_header_are_read(tmp_path):
    image = some_images(1)[0]
    path = write_shard(tmp_path / "a.tar", [("long/" * 60 + "x.png", png(image))])
    read = open_source(path, FORM).read(np.array([0]))
    assert torch.equal(read[0, 0], torch.from_numpy(image))


# Bad input


def test_a_truncated_shard_is_refused_or_gives_what_is_whole(shards, caplog):
    path, images = shards
    shard = path / "001.tar"
    whole = shard.read_bytes()
    shard.write_bytes(whole[: len(whole) * 2 // 3])
    with pytest.raises(DataError, match=r"001\.tar is a truncated shard"):
        open_source(path, FORM)
    source = open_source(path, FORM, on_bad="skip")
    assert 40 < len(source) < 50
    assert torch.equal(source.read(np.arange(40)), images[:40])
    assert source.skipped.counts["a truncated shard"] == 1
    assert "001.tar" in caplog.text


@pytest.mark.parametrize("memory", [0, 2**28])
def test_a_damaged_member_is_named_with_its_shard(tmp_path, memory):
    images = some_images(6)
    members = dict(members_of(images))
    members["train/0002.png"] = b"no image"
    path = write_shard(tmp_path / "a.tar", members.items())
    with pytest.raises(DataError, match=r"a\.tar, train/0002\.png is not a readable image"):
        open_source(path, FORM, memory=memory).read(np.arange(6))
    source = open_source(path, FORM, memory=memory, on_bad="skip")
    source.read(np.arange(len(source)))
    assert source.skipped.counts == {"not a readable image": 1}


def test_where_some_have_labels_all_must(tmp_path):
    members = dict(members_of(some_images(4)))
    del members["train/0001.cls"]
    members["train/0003.cls"] = b"cat"
    path = write_shard(tmp_path / "a.tar", members.items())
    with pytest.raises(DataError, match=r"train/0001\.png is an image without a label"):
        open_source(path, FORM)
    source = open_source(path, FORM, on_bad="skip")
    assert source.labels.tolist() == [0, 2]
    assert source.skipped.counts == {"an image without a label": 2}


def test_a_sample_without_an_image_is_bad_input(tmp_path):
    members = dict(members_of(some_images(3)))
    del members["train/0001.png"]
    path = write_shard(tmp_path / "a.tar", members.items())
    with pytest.raises(DataError, match="train/0001 is a sample without an image"):
        open_source(path, FORM)
    assert len(open_source(path, FORM, on_bad="skip")) == 2


def test_what_is_no_tar_file_is_refused_even_when_skipping(tmp_path):
    (tmp_path / "a.tar").write_bytes(b"\x1f\x8b" + bytes(2000))
    with pytest.raises(DataError, match="a compressed one must be unpacked"):
        open_source(tmp_path, FORM, on_bad="skip")
    write_shard(tmp_path / "a.tar", [])
    with pytest.raises(DataError, match="holds no images"):
        open_source(tmp_path, FORM)
