"""Private data on its way to the trainer: sources of images, and seeded streams of batches."""

from gobelin.shared.data.memory import MemorySource
from gobelin.shared.data.source import Source, kind_of, open_source
from gobelin.shared.data.stream import BatchStream
from gobelin.shared.data.subset import Subset

__all__ = ["BatchStream", "MemorySource", "Source", "Subset", "kind_of", "open_source"]
