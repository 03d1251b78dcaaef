"""A smartwatch's motion in seven exercises, from the wheel of the PyPI package `seglearn`.

BSD-3 (github.com/dmbee/seglearn): ten subjects, acceleration and rotation in three axes at 50 Hz.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import zipfile
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from gobelin.shared.data.export import write_series
from gobelin.shared.data.prepare.package import Package
from gobelin.shared.errors import DatasetError

PACKAGE = Package(
    name="seglearn-1.2.5-py3-none-any.whl",
    sha256="ec6b952c85c9627050102854b372d85951563d3b990df677d7c55547e87413dd",
    fetch="pip download --no-deps seglearn==1.2.5",
)
MEMBER = "seglearn/data/watch_dataset.npy"
MEMBER_SHA256 = "eb122f23cdf06ef6bd6c6c5312958ec5cf9d038e2e6d457b8081662c75a42537"
RATE = 50.0  # Hz


def prepare_watch(source: Path | None, out: Path, by_subject: bool) -> dict[str, Any]:
    """Write `watch.parquet` into `out`, or into a folder of it for each subject.

    The label of a series is its exercise. Raises DatasetError unless `source` is the pinned wheel.
    """
    found = read_watch(PACKAGE.read(source))
    subjects = found["subject"].astype(int)
    places = sorted(set(subjects.tolist())) if by_subject else [None]
    for place in places:
        mine = [i for i in range(len(subjects)) if place in (None, subjects[i])]
        folder = out if place is None else out / f"subject-{place:02d}"
        write_series(
            folder / "watch.parquet",
            [np.asarray(found["X"][i], dtype=np.float32) for i in mine],
            [str(name) for name in found["X_labels"]],
            [str(found["y_labels"][found["y"][i]]) for i in mine],
            RATE,
            {
                "subject": [str(subjects[i]) for i in mine],
                "side": ["right" if found["side"][i] else "left" for i in mine],
            },
        )
    return {
        "out": str(out),
        "series": len(subjects),
        "steps": sum(len(x) for x in found["X"]),
        "subjects": len(set(subjects.tolist())),
    }


def read_watch(wheel: bytes) -> dict[str, Any]:
    """The data set's dictionary, out of the wheel's pickle."""
    with zipfile.ZipFile(io.BytesIO(wheel)) as archive:
        content = archive.read(MEMBER)
    if hashlib.sha256(content).hexdigest() != MEMBER_SHA256:
        raise DatasetError(f"{MEMBER} in {PACKAGE.name} is not the pinned one", PACKAGE.fetch)
    stream = io.BytesIO(content)
    np.lib.format.read_magic(stream)
    np.lib.format.read_array_header_1_0(stream)
    value: dict[str, Any] = ArrayUnpickler(stream).load().item()
    return value


class ArrayUnpickler(pickle.Unpickler):
    """Loads arrays of numbers and plain containers, nothing else.

    A pickle may name any function to be called. Though the bytes are pinned, this one may call
    only the four that numpy wrote into it.
    """

    ALLOWED: ClassVar = {
        ("numpy.core.multiarray", "_reconstruct"): ("numpy._core.multiarray", "_reconstruct"),
        ("numpy", "ndarray"): ("numpy", "ndarray"),
        ("numpy", "dtype"): ("numpy", "dtype"),
        ("_codecs", "encode"): ("_codecs", "encode"),
    }

    def find_class(self, module: str, name: str) -> Any:
        """One of the four; raises DatasetError for another."""
        place = self.ALLOWED.get((module, name))
        if place is None:
            raise DatasetError(f"the pickle asks for {module}.{name}", PACKAGE.fetch)
        return super().find_class(*place)
