"""Curves as TensorBoard's event files (TFRecords of Event messages), appended to run by run.

What is in a folder already is read from its files, so writing the same again adds nothing, and a
kill in between loses nothing: what is missing is written the next time.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gobelin.shared.errors import ConfigError
from gobelin.shared.locks import change

if TYPE_CHECKING:
    from gobelin.shared.pages.charts import Chart

FRAME = struct.Struct("<QI")  # length and its checksum, before the data; another checksum behind
TAIL = 4
FILES = "events.out.tfevents.*"


@dataclass(frozen=True)
class Point:
    """A value of a curve."""

    tag: str  # group/curve
    step: int
    value: float
    at: float | None = None  # Unix seconds


def write_points(folder: Path, points: Iterable[Point]) -> int:
    """Add the points that `folder` does not have; returns how many. Raises ConfigError.

    Waits for whoever is writing there.
    """
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        what = "event files need tensorboardX, which is not installed"
        raise ConfigError(what, "pip install 'gobelin[tensorboard]'") from None
    with change(folder):  # else two at once would write the same
        missing = {(point.tag, point.step): point for point in points}
        for known in read_points(folder):
            missing.pop((known.tag, known.step), None)
        if not missing:
            return 0
        suffix = f".{len(list(folder.glob(FILES))):05d}.gobelin"  # else one second has one name
        with SummaryWriter(str(folder), filename_suffix=suffix) as writer:
            for (tag, step), point in sorted(missing.items()):
                writer.add_scalar(tag, point.value, step, walltime=point.at)
        return len(missing)


def read_points(folder: Path) -> Iterator[Point]:
    """All points in the event files of a folder, up to where one of them is torn."""
    from tensorboardX.proto.event_pb2 import Event

    for file in sorted(folder.glob(FILES)):
        for data in _records(file.read_bytes()):
            event = Event.FromString(data)
            for value in event.summary.value:
                yield Point(value.tag, event.step, _scalar(value), event.wall_time)


def _records(data: bytes) -> Iterator[bytes]:
    at = 0
    while at + FRAME.size <= len(data):
        length, _ = FRAME.unpack_from(data, at)
        at += FRAME.size
        if at + length + TAIL > len(data):  # its writer was killed
            return
        yield data[at : at + length]
        at += length + TAIL


def _scalar(value: Any) -> float:
    tensor = value.tensor.float_val
    return float(tensor[0]) if tensor else float(value.simple_value)


def points_of(charts: Iterable[Chart], times: Mapping[int, float | None]) -> Iterator[Point]:
    """The points of a page's charts: what is drawn there is exported here."""
    for chart in charts:
        for line in chart.lines:
            tag = f"{chart.key}/{line.label.replace(' ', '_')}"
            for step, value in zip(chart.rounds, line.values, strict=True):
                if value is not None and math.isfinite(value):
                    yield Point(tag, step, float(value), times.get(step))
