"""Video: clips of files that PyAV decodes, or of folders of frames."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from torch import Tensor

from gobelin.shared.data.bad_input import BadInput, OnBad
from gobelin.shared.data.decode import THREADS, Image, fit_image, try_decode_many
from gobelin.shared.data.encoded import EncodedSource, open_encoded
from gobelin.shared.data.formats import ImageFormat, VideoFormat
from gobelin.shared.data.image_folder import classes_of, is_image
from gobelin.shared.data.memory import MemorySource
from gobelin.shared.data.windows import starts_of
from gobelin.shared.errors import ConfigError, DataError

SUFFIXES = frozenset((".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm"))
UNREADABLE = "not a readable clip"
SECTION = 32  # frames decoded together, and kept

Indices = npt.NDArray[np.int64]
Times = npt.NDArray[np.int64]


class Frames(Protocol):
    """Where the frames of one video lie."""

    path: Path

    def __len__(self) -> int:
        """How many frames there are; decoding may show that fewer can be used."""

    def decode(self, start: int, stop: int, form: ImageFormat) -> list[Image | None]:
        """Frames start ≤ t < stop; None stands for each that is unreadable."""


def finds_files(path: Path) -> bool:
    """Whether `path` is a video file, or a folder with some at any depth."""
    return bool(_video_files(path))


def finds_frame_folders(path: Path) -> bool:
    """Whether `path` is a folder of folders of images."""
    return path.is_dir() and any(is_image(p) and p.parent != path for p in path.rglob("*"))


def open_video_files(
    path: Path, form: VideoFormat, memory: int, on_bad: OnBad
) -> MemorySource | EncodedSource:
    """Open video files; sub-folders, where all lie in some, are the classes.

    A video that ends before its header says is refused, or gives the clips it has.
    """
    skipped = BadInput(on_bad)
    root = path.parent if path.is_file() else path
    videos: list[Frames] = []
    for file in _video_files(path):
        name = file.relative_to(root).as_posix()
        video = VideoFile(file)
        if video.truncated:
            skipped.meet(name, "a truncated video" if len(video) else "not a readable video")
        if len(video):
            videos.append(video)
    return _open(path, videos, root, form, memory, skipped)


def open_frame_folders(
    path: Path, form: VideoFormat, memory: int, on_bad: OnBad
) -> MemorySource | EncodedSource:
    """Open folders of images, each one video whose frames are in the order of their names."""
    files = sorted(p for p in path.rglob("*") if is_image(p) and p.parent != path)
    folders = groupby(sorted(files, key=lambda p: (p.parent, p.name)), key=lambda p: p.parent)
    videos: list[Frames] = [FrameFolder(folder, list(frames)) for folder, frames in folders]
    return _open(path, videos, path, form, memory, BadInput(on_bad))


def _open(
    path: Path,
    videos: list[Frames],
    root: Path,
    form: VideoFormat,
    memory: int,
    skipped: BadInput,
) -> MemorySource | EncodedSource:
    kept = []
    for video in videos:
        if len(video) < form.frames:
            name = video.path.relative_to(root).as_posix()
            skipped.meet(name, "a video shorter than a clip")
        else:
            kept.append(video)
    if not kept:
        raise DataError(f"{path} holds no clip that can be used", "point at other data")
    return open_encoded(Clips(path, root, kept, form, memory), memory, skipped)


class Clips:
    """The clips of videos: a store of encoded samples. The last decoded sections are kept."""

    fault = UNREADABLE

    def __init__(
        self, path: Path, root: Path, videos: list[Frames], form: VideoFormat, memory: int
    ) -> None:
        self.where, self._root, self._videos, self._form = path, root, videos, form
        self.shape = form.shape
        starts = [starts_of(len(video), form.frames, form.stride) for video in videos]
        self._owners = np.repeat(np.arange(len(videos)), [len(s) for s in starts])
        self._starts = np.concatenate(starts)
        of_videos, self.class_names = classes_of(root, [video.path for video in videos])
        self.labels: Tensor | None = None if of_videos is None else of_videos[self._owners]
        # About the clips of one section: a stream comes back to it while it is kept.
        self.block: int | None = max(1, SECTION // form.stride)
        self._sections: OrderedDict[tuple[int, int], list[Image | None]] = OrderedDict()
        self._room = max(1, memory // (SECTION * form.image.bytes))

    def __len__(self) -> int:
        return len(self._starts)

    def name(self, index: int) -> str:
        """Video, and frames."""
        video, start = self._videos[self._owners[index]], self._starts[index]
        where = video.path.relative_to(self._root).as_posix()
        return f"{where}, frames {start} to {start + self._form.frames - 1}"

    def decode(self, indices: Indices) -> Sequence[npt.NDArray[np.uint8] | None]:
        """The clips at `indices`, each uint8 (T, C, H, W) or None."""
        clips: list[npt.NDArray[np.uint8] | None] = [None] * len(indices)
        for row in np.argsort(indices, kind="stable"):  # a video after the other, forwards
            video, start = int(self._owners[indices[row]]), int(self._starts[indices[row]])
            frames = self._frames(video, start, start + self._form.frames)
            whole = [frame for frame in frames if frame is not None]
            if len(whole) == self._form.frames:
                clips[row] = np.stack(whole)
        return clips

    def _frames(self, video: int, start: int, stop: int) -> list[Image | None]:
        frames: list[Image | None] = []
        for section in range(start // SECTION, -(-stop // SECTION)):
            first = section * SECTION
            frames += self._section(video, section)[max(start - first, 0) : stop - first]
        return frames

    def _section(self, video: int, section: int) -> list[Image | None]:
        key = (video, section)
        if key not in self._sections:
            first = section * SECTION
            stop = min(first + SECTION, len(self._videos[video]))
            self._sections[key] = self._videos[video].decode(first, stop, self._form.image)
            if len(self._sections) > self._room:
                self._sections.popitem(last=False)
        self._sections.move_to_end(key)
        return self._sections[key]


class FrameFolder:
    """A folder of images as a video."""

    def __init__(self, folder: Path, files: list[Path]) -> None:
        self.path, self._files = folder, files

    def __len__(self) -> int:
        return len(self._files)

    def decode(self, start: int, stop: int, form: ImageFormat) -> list[Image | None]:
        """Frames start ≤ t < stop."""
        return try_decode_many(self._files[start:stop], form)


class VideoFile:
    """The first video stream of a file. Its packets are counted once, and not decoded.

    `truncated`: the file cannot be read to its end, or has fewer frames than its header says.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.truncated = False
        self._times, keys = self._index()
        # A decoder is put to the last key frame at or before what is asked for.
        self._keys = np.sort(keys)

    def __len__(self) -> int:
        return len(self._times)

    def decode(self, start: int, stop: int, form: ImageFormat) -> list[Image | None]:
        """Frames start ≤ t < stop, known by their time stamps."""
        av = _av()
        wanted = {int(time): row for row, time in enumerate(self._times[start:stop])}
        frames: list[Image | None] = [None] * (stop - start)
        first, last = int(self._times[start]), int(self._times[stop - 1])
        try:
            with av.open(str(self.path)) as container:
                stream = container.streams.video[0]
                stream.thread_type, stream.codec_context.thread_count = "AUTO", THREADS
                key = int(np.searchsorted(self._keys, first, side="right")) - 1
                if key > 0:
                    container.seek(int(self._keys[key]), stream=stream)
                for frame in container.decode(stream):
                    if frame.pts in wanted and not frame.is_corrupt:
                        frames[wanted[frame.pts]] = fit_image(frame.to_image(), form)
                    if frame.pts is not None and frame.pts >= last:
                        break
        except (av.error.FFmpegError, EOFError):
            pass  # what was not decoded is None
        return frames

    def _index(self) -> tuple[Times, Times]:
        """When each frame is shown, in order, and those of key frames, in the stream's units."""
        av = _av()
        times: list[int] = []
        keys: list[int] = []
        found = 0
        try:
            with av.open(str(self.path)) as container:
                stream = container.streams.video[0]
                for packet in container.demux(stream):
                    if packet.pts is None:
                        continue  # the mark of the end
                    found += 1
                    self.truncated |= packet.is_corrupt
                    if packet.is_discard:
                        continue  # cut out by an edit list
                    times.append(packet.pts)
                    if packet.is_keyframe:
                        keys.append(packet.pts)
                self.truncated |= found < _expected_frames(stream, container)
        except (av.error.FFmpegError, EOFError, IndexError):
            self.truncated = True
        if not keys:
            self.truncated = True
            return np.empty(0, np.int64), np.empty(0, np.int64)
        return np.unique(np.array(times)), np.array(keys)


def _expected_frames(stream: Any, container: Any) -> float:
    """How many frames the header says there are, at least."""
    if stream.frames:
        return float(stream.frames)
    seconds = 0.0
    if stream.duration is not None and stream.time_base is not None:
        seconds = float(stream.duration * stream.time_base)
    elif container.duration is not None:
        seconds = container.duration / 1e6
    # A duration may include sound that goes on, or a frame shown for long.
    return 0.9 * seconds * float(stream.average_rate or 0) - 2


def _video_files(path: Path) -> list[Path]:
    """The video files at `path`: it, or those in it."""
    if path.is_file():
        return [path] if path.suffix.lower() in SUFFIXES else []
    if not path.is_dir():
        return []
    found = (p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES)
    return sorted(p for p in found if p.is_file() and not p.name.startswith("."))


def _av() -> Any:
    try:
        import av
        import av.error
    except ImportError:
        raise ConfigError(
            "video files need PyAV, which is not installed", "pip install 'gobelin[video]'"
        ) from None
    av.logging.set_level(av.logging.PANIC)  # what it would print may quote private data
    return av
