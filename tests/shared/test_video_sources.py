"""Video: files and folders of frames give the same clips; what is truncated is never silent."""

import sys
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from PIL import Image

from gobelin.shared.data import BatchStream, VideoFormat, open_source
from gobelin.shared.errors import ConfigError, DataError

FORM = VideoFormat(frames=4, image_size=16, channels=1, stride=2)


def some_frames(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 16, 16)).astype(np.uint8)


def write_video(path, frames, codec="ffv1", pixels="gray", options=None, gop=5):
    """A video whose frames come back to the byte with ffv1."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], pixels
        stream.gop_size = gop
        stream.time_base = Fraction(1, 25)
        for i, pixel in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixel, format="gray").reformat(format=pixels)
            frame.pts = i
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def write_folders(root, videos):
    for name, frames in videos.items():
        for i, frame in enumerate(frames):
            file = root / name / f"{i:04d}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(frame).save(file)


def clips_of(*videos, frames=4, stride=2):
    return torch.from_numpy(
        np.stack(
            [
                video[start : start + frames, None]
                for video in videos
                for start in range(0, len(video) - frames + 1, stride)
            ]
        )
    )


VIDEOS = {"ball/a": some_frames(70), "ball/b": some_frames(4, 1), "cup/c": some_frames(11, 2)}


def write_files(root, videos):
    for name, frames in videos.items():
        write_video(root / f"{name}.mkv", frames)


@pytest.mark.parametrize("memory", [0, 2**28])
@pytest.mark.parametrize("write", [write_files, write_folders])
def test_files_and_folders_of_frames_give_the_same_clips(tmp_path, write, memory):
    write(tmp_path / "data", VIDEOS)
    source = open_source(tmp_path / "data", FORM, memory=memory)
    expected = clips_of(*VIDEOS.values())
    assert len(source) == len(expected) == 34 + 1 + 4
    order = np.random.default_rng(0).permutation(len(expected))
    assert torch.equal(source.read(order), expected[order])
    assert source.class_names == ("ball", "cup")
    assert source.labels.tolist() == [0] * 35 + [1] * 4


def test_colour_and_other_sizes_are_converted(tmp_path):
    wide = np.zeros((6, 32, 64), np.uint8)
    wide[:, :, 32:] = 255
    write_video(tmp_path / "a.mp4", wide, "mpeg4", "yuv420p")
    clip = open_source(tmp_path, VideoFormat(4, 16, 3, 1)).read(np.array([0]))
    assert clip.shape == (1, 4, 3, 16, 16)
    assert clip[..., 0].max() < 60
    assert clip[..., -1].min() > 195


@pytest.mark.parametrize("write", [write_files, write_folders])
def test_a_stream_goes_on_at_the_same_clips_when_videos_are_opened_again(tmp_path, write):
    write(tmp_path / "data", VIDEOS)
    first = BatchStream(open_source(tmp_path / "data", FORM, memory=0), 6, seed=5)
    expected = [first.batch(step) for step in range(15)]
    again = BatchStream(open_source(tmp_path / "data", FORM, memory=0), 6, seed=5)
    assert all(torch.equal(again.batch(step), expected[step]) for step in (14, 3, 8))


def test_no_more_sections_are_kept_than_memory_allows(tmp_path):
    write_files(tmp_path / "data", VIDEOS)
    section = 32 * 16 * 16
    source = open_source(tmp_path / "data", FORM, memory=2 * section)
    for step in range(30):
        BatchStream(source, 5, seed=0).batch(step)
    assert len(source._store._sections) == 2


# Bad input


def test_a_truncated_file_is_refused_or_gives_the_clips_it_has(tmp_path, caplog):
    frames = some_frames(60)
    smooth = np.repeat(np.repeat(frames[:, ::4, ::4], 4, axis=1), 4, axis=2)
    file = write_video(
        tmp_path / "data" / "a.mp4", smooth, "mpeg4", "yuv420p", {"movflags": "faststart"}
    )
    whole = open_source(tmp_path / "data", FORM)
    content = file.read_bytes()
    file.write_bytes(content[: len(content) * 2 // 3])
    with pytest.raises(DataError, match=r"a\.mp4 is a truncated video"):
        open_source(tmp_path / "data", FORM)
    for memory in (0, 2**28):
        source = open_source(tmp_path / "data", FORM, on_bad="skip", memory=memory)
        assert 5 < len(source) < len(whole)
        assert torch.equal(source.read(np.arange(5)), whole.read(np.arange(5)))
        assert source.skipped.counts["a truncated video"] == 1
    assert "a.mp4" in caplog.text


def test_a_file_cut_without_an_index_is_told_by_its_header(tmp_path):
    file = write_video(tmp_path / "a.mkv", some_frames(60))
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"a\.mkv is a truncated video"):
        open_source(tmp_path, FORM)


@pytest.mark.parametrize("content", [b"", b"no video at all" * 99])
def test_what_is_no_video_is_named(tmp_path, content):
    write_files(tmp_path / "data", VIDEOS)
    (tmp_path / "data" / "ball" / "aa.mp4").write_bytes(content)
    with pytest.raises(DataError, match=r"ball/aa\.mp4 is not a readable video"):
        open_source(tmp_path / "data", FORM)
    source = open_source(tmp_path / "data", FORM, on_bad="skip")
    assert torch.equal(source.read(np.arange(len(source))), clips_of(*VIDEOS.values()))
    assert source.skipped.facts() == {
        "not a readable video": {"count": 1, "first": ["ball/aa.mp4"]}
    }


@pytest.mark.parametrize("memory", [0, 2**28])
def test_a_damaged_frame_spoils_its_clips_alone(tmp_path, memory):
    write_folders(tmp_path / "data", VIDEOS)
    (tmp_path / "data" / "ball" / "a" / "0040.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"ball/a, frames 38 to 41 is not a readable clip"):
        open_source(tmp_path / "data", FORM, memory=memory).read(np.arange(39))
    source = open_source(tmp_path / "data", FORM, memory=memory, on_bad="skip")
    clips = source.read(np.arange(len(source)))
    expected = clips_of(*VIDEOS.values())
    good = [i for i in range(39) if i not in (19, 20)]
    if memory:
        assert torch.equal(clips, expected[good])
    else:  # the next readable one stands in, for the order of batches must not change under way
        assert torch.equal(clips[good], expected[good])
        assert torch.equal(clips[19], expected[21])
    assert source.skipped.counts == {"not a readable clip": 2}


def test_a_video_shorter_than_a_clip_is_bad_input(tmp_path):
    write_folders(tmp_path / "data", VIDEOS | {"cup/d": some_frames(3)})
    with pytest.raises(DataError, match="cup/d is a video shorter than a clip"):
        open_source(tmp_path / "data", FORM)
    assert len(open_source(tmp_path / "data", FORM, on_bad="skip")) == 39
    with pytest.raises(DataError, match="no clip that can be used"):
        open_source(tmp_path / "data", VideoFormat(99, 16, 1, 1), on_bad="skip")


def test_a_missing_library_is_one_line_that_names_the_extra(tmp_path, monkeypatch):
    write_files(tmp_path / "data", VIDEOS)
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ConfigError, match=r"pip install 'gobelin\[video\]'"):
        open_source(tmp_path / "data", FORM)
