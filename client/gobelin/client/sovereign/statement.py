"""What a lineage says of data: how many there are and of what, and a digest, never any of them."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from gobelin.client.sovereign.lineage import DataStatement
from gobelin.shared.data import Source, Trajectories

READ = 256  # samples at a time


def state_data(name: str, source: Source[Any]) -> DataStatement:
    """The statement of a source; its digest is over each sample's SHA-256 and label, in order.

    Whoever has the samples computes it again; from it none can be told that is not known already.
    """
    together, labels = hashlib.sha256(), source.labels
    for start in range(0, len(source), READ):
        rows = np.arange(start, min(len(source), start + READ))
        batch = source.read(rows)
        parts = [batch.observations, batch.actions] if isinstance(batch, Trajectories) else [batch]
        for row in range(len(rows)):
            sample = hashlib.sha256()
            for part in parts:
                sample.update(part[row].contiguous().numpy().tobytes())
            together.update(sample.digest())
            if labels is not None:
                together.update(int(labels[start + row]).to_bytes(8, "big", signed=True))
    classes = source.class_names or ()
    counts = [] if labels is None else labels.clamp(min=0).bincount(minlength=len(classes)).tolist()
    return DataStatement(
        name=name,
        samples=len(source),
        classes=classes,
        counts=tuple(counts),
        digest=together.hexdigest(),
    )
