"""Private data on its way to the trainer: sources of samples, and seeded streams of batches."""

from gobelin.shared.data.bad_input import BadInput, OnBad
from gobelin.shared.data.formats import (
    Format,
    ImageFormat,
    SeriesFormat,
    TextFormat,
    TrajectoryFormat,
    VideoFormat,
)
from gobelin.shared.data.memory import MemorySource
from gobelin.shared.data.source import Source, kind_of, open_source
from gobelin.shared.data.stream import BatchStream
from gobelin.shared.data.subset import Subset
from gobelin.shared.data.trajectories import Batch, Labelled, Trajectories

__all__ = [
    "BadInput",
    "Batch",
    "BatchStream",
    "Format",
    "ImageFormat",
    "Labelled",
    "MemorySource",
    "OnBad",
    "SeriesFormat",
    "Source",
    "Subset",
    "TextFormat",
    "Trajectories",
    "TrajectoryFormat",
    "VideoFormat",
    "kind_of",
    "open_source",
]
