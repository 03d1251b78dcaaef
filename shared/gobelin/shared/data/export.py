"""Write samples in the formats a source reads: for public data sets, demos, benches and tests."""

from __future__ import annotations

import io
import json
import shutil
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from gobelin.shared.data.decode import pillow
from gobelin.shared.data.row_groups import pyarrow
from gobelin.shared.files import file_atomic, folder_atomic


def write_idx(folder: Path, images: Tensor, labels: Tensor | None = None) -> None:
    """Write uint8 images (N, C, H, W), and labels (N,) if any, as a folder of IDX files."""
    pixels = images.permute(0, 2, 3, 1).contiguous().numpy()  # (N, H, W, C)
    grey = pixels.shape[-1] == 1
    pixels = pixels[..., 0] if grey else pixels
    with folder_atomic(folder) as tmp:
        name = f"images-idx{pixels.ndim}-ubyte"
        (tmp / name).write_bytes(_idx_header(pixels.shape) + pixels.tobytes())
        if labels is not None:
            values = labels.numpy().astype(np.uint8)
            (tmp / "labels-idx1-ubyte").write_bytes(_idx_header(values.shape) + values.tobytes())


def write_parquet(
    folder: Path,
    images: Tensor,
    labels: Tensor,
    class_names: Sequence[str] | None = None,
    rows_per_group: int = 1000,
) -> None:
    """Write images (N, C, H, W) and labels (N,) as a folder with one Parquet file of PNGs."""
    pa = pyarrow()
    import pyarrow.parquet as pq

    encoded = [{"bytes": _png(image), "path": None} for image in images]
    image_type = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table(
        {"image": pa.array(encoded, image_type), "label": pa.array(labels.numpy(), pa.int64())}
    )
    if class_names is not None:
        features = {"label": {"names": list(class_names), "_type": "ClassLabel"}}
        about = json.dumps({"info": {"features": features}})
        table = table.replace_schema_metadata({"huggingface": about})
    with folder_atomic(folder) as tmp:
        pq.write_table(table, tmp / "images.parquet", row_group_size=rows_per_group)


def write_image_folder(
    folder: Path, images: Tensor, labels: Tensor, class_names: Sequence[str]
) -> None:
    """Write images (N, C, H, W) as PNGs in one sub-folder a class; names keep the order within."""
    tmp = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(tmp, ignore_errors=True)
    for i, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
        file = tmp / class_names[label] / f"{i:07d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(_png(image))
    shutil.rmtree(folder, ignore_errors=True)
    tmp.replace(folder)


def write_texts(
    file: Path,
    texts: Sequence[str],
    labels: Sequence[int | str],
    others: Mapping[str, Sequence[str]] | None = None,
    rows_per_group: int = 1000,
) -> None:
    """Write texts (N,) and labels (N,) as one Parquet file, with other columns beside them."""
    pa = pyarrow()
    table = pa.table({"text": list(texts), "label": list(labels), **(others or {})})
    _write_table(file, table, rows_per_group)


def write_series(
    file: Path,
    series: Sequence[npt.NDArray[Any]],  # each (T, C)
    channels: Sequence[str],
    labels: Sequence[int | str],
    rate: float,
    others: Mapping[str, Sequence[str]] | None = None,
    rows_per_group: int = 2**16,
) -> None:
    """Write series and labels (N,) as one Parquet file at `rate` Hz: a row a step.

    `others` are facts of a series, as text, which no reader takes for a channel.
    """
    pa = pyarrow()
    lengths = [len(one) for one in series]

    def repeated(facts: Sequence[Any]) -> npt.NDArray[Any]:
        return np.repeat(np.asarray(facts), lengths)

    values = np.concatenate(list(series)).astype(np.float32)
    columns: dict[str, Any] = {"series": repeated(range(len(series))), "label": repeated(labels)}
    columns |= {name: repeated(facts) for name, facts in (others or {}).items()}
    columns |= {name: values[:, i] for i, name in enumerate(channels)}
    table = pa.table(columns).replace_schema_metadata({"rate": str(rate)})
    _write_table(file, table, rows_per_group)


def write_episodes(
    file: Path,
    observations: npt.NDArray[Any],  # (E, T + 1, ...)
    actions: npt.NDArray[Any],  # (E, T, A)
    states: npt.NDArray[Any] | None = None,  # (E, T + 1, S), for evaluation
) -> None:
    """Write episodes of one length as a .npz file that can be mapped."""
    arrays: dict[str, Any] = {"observations": observations, "actions": actions}
    if states is not None:
        arrays["states"] = states
    with file_atomic(file) as tmp, tmp.open("wb") as stream:
        np.savez(stream, **arrays)


def _write_table(file: Path, table: Any, rows_per_group: int) -> None:
    import pyarrow.parquet as pq

    with file_atomic(file) as tmp:
        pq.write_table(table, tmp, row_group_size=rows_per_group)


def _png(image: Tensor) -> bytes:
    """A uint8 image (C, H, W) as PNG."""
    pixels = image[0].numpy() if len(image) == 1 else image.permute(1, 2, 0).contiguous().numpy()
    buffer = io.BytesIO()
    pillow().Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _idx_header(shape: tuple[int, ...]) -> bytes:
    return struct.pack(f">HBB{len(shape)}I", 0, 0x08, len(shape), *shape)
