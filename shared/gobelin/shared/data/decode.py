"""Encoded images (PNG, JPEG, ...) become arrays of the recipe's size."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gobelin.shared.data.formats import ImageFormat
from gobelin.shared.errors import ConfigError, DataError

Image = npt.NDArray[np.uint8]  # (C, H, W)
UNREADABLE = "not a readable image"
THREADS = min(8, os.cpu_count() or 1)  # Pillow decodes without holding the interpreter's lock


def decode_image(file: Path | bytes, form: ImageFormat) -> Image:
    """Decode one image as uint8 (C, H, W); another size is cropped to a square and resized.

    Raises DataError when the bytes are no image, or end too early.
    """
    pil = pillow()
    mode = "L" if form.channels == 1 else "RGB"
    side = (form.image_size, form.image_size)
    try:
        with pil.Image.open(io.BytesIO(file) if isinstance(file, bytes) else file) as image:
            image.draft(mode, side)  # lets JPEG decode at a fraction of its size
            return fit_image(pil.ImageOps.exif_transpose(image), form)
    except (OSError, SyntaxError, ValueError, pil.Image.DecompressionBombError) as error:
        # Pillow's own text may quote bytes or paths: only the kind of failure is passed on.
        raise DataError(f"not a readable image ({type(error).__name__})") from None


def fit_image(image: Any, form: ImageFormat) -> Image:
    """A Pillow image as uint8 (C, H, W), cropped to a square and resized where it must be."""
    pil = pillow()
    side = (form.image_size, form.image_size)
    plain = _eight_bit(image).convert("L" if form.channels == 1 else "RGB")
    if plain.size != side:
        plain = pil.ImageOps.fit(plain, side, pil.Image.Resampling.BICUBIC)
    pixels: Image = np.asarray(plain, dtype=np.uint8)
    return pixels[None] if form.channels == 1 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def try_decode_many(files: Sequence[Path | bytes], form: ImageFormat) -> list[Image | None]:
    """Decode images in parallel; None stands for each that is unreadable."""

    def attempt(file: Path | bytes) -> Image | None:
        try:
            return decode_image(file, form)
        except DataError:
            return None

    if len(files) < 4 * THREADS or THREADS == 1:
        return [attempt(file) for file in files]
    chunk = -(-len(files) // (4 * THREADS))
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(attempt, files, chunksize=chunk))


def _eight_bit(image: Any) -> Any:
    """16-bit greyscale (scanners, radiology) keeps its high byte; Pillow itself would clip it."""
    if not image.mode.startswith("I;16"):
        return image
    return pillow().Image.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8))


def pillow() -> Any:
    try:
        import PIL
        import PIL.Image
        import PIL.ImageOps
    except ImportError:
        raise ConfigError(
            "encoded images need Pillow, which is not installed", "pip install 'gobelin[images]'"
        ) from None
    return PIL
