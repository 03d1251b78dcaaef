"""Observations and actions as a user has them, checked and brought into the model's form."""

from __future__ import annotations

import base64
import binascii
import io
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gobelin.shared.data.decode import fit_image, pillow
from gobelin.shared.data.formats import ImageFormat, TrajectoryFormat
from gobelin.shared.errors import DataError

Array = npt.NDArray[Any]


def read_observation(path: Path, form: TrajectoryFormat) -> Tensor:
    """One observation (...) of a .npy file or a picture; raises DataError naming the file."""
    try:
        if path.suffix == ".npy":
            return observation_of(_read_npy(path), form)
        return decode_observation(path.read_bytes(), form)
    except OSError as error:
        raise DataError(
            f"{path} cannot be read ({error.strerror})", "check the path and its permissions"
        ) from None
    except DataError as error:
        raise DataError(f"{path}: {error.what}", error.remedy) from None


def read_actions(path: Path, form: TrajectoryFormat) -> Tensor:
    """Actions (S, H, A) of a .npy file; raises DataError naming it."""
    try:
        return actions_of(_read_npy(path), form)
    except OSError as error:
        raise DataError(
            f"{path} cannot be read ({error.strerror})", "check the path and its permissions"
        ) from None
    except DataError as error:
        raise DataError(f"{path}: {error.what}", error.remedy) from None


def observation_of(values: Any, form: TrajectoryFormat) -> Tensor:
    """One observation, uint8 (C, H, W) or float32 (S,), of an array or nested lists.

    Pixels are whole numbers from 0 to 255; they may come channels last, and grey ones without a
    channel. Raises DataError.
    """
    array = _numbers(values, "an observation")
    size = form.image_size
    if size is not None:
        if form.channels == 1 and array.shape == (size, size):
            array = array[None]
        elif array.shape == (size, size, form.channels):
            array = np.moveaxis(array, -1, 0)
    if array.shape != form.shape:
        wanted = " x ".join(map(str, form.shape))
        found = " x ".join(map(str, array.shape)) or "one number"
        raise DataError(f"an observation is {found}, the model sees {wanted}", "give it that size")
    if size is None:
        return torch.from_numpy(_finite(array, "an observation"))
    whole = array.dtype.kind in "iu"
    if not whole or array.min() < 0 or array.max() > 255:
        raise DataError("pixels are not whole numbers from 0 to 255", "give them as uint8")
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.uint8))


def actions_of(values: Any, form: TrajectoryFormat) -> Tensor:
    """Candidate plans, float32 (S, H, A), of one plan (H, A) or several; raises DataError."""
    array = _numbers(values, "actions")
    array = array[None] if array.ndim == 2 else array
    if array.ndim != 3 or array.shape[2] != form.actions or not array.size:
        wanted = f"(H, {form.actions}) or (S, H, {form.actions})"
        raise DataError(
            f"actions are {array.shape}, the model takes {wanted}", "give them in that shape"
        )
    return torch.from_numpy(_finite(array, "actions"))


def decode_observation(data: bytes, form: TrajectoryFormat) -> Tensor:
    """One observation, uint8 (C, H, W), of an encoded picture of exactly the model's size."""
    if form.image_size is None:
        what = "a picture, or a file that is no .npy"
        raise DataError(f"{what}: the model sees {form.channels} numbers", "give them as .npy")
    side = (form.image_size, form.image_size)
    pil = pillow()
    try:
        with pil.Image.open(io.BytesIO(data)) as image:
            if image.size != side:  # told by the header, before anything is unpacked
                found = f"{image.width} x {image.height}"
                raise DataError(f"a picture is {found}", f"the model sees {side[0]} x {side[1]}")
            pixels = fit_image(image, ImageFormat(form.image_size, form.channels))
    except (OSError, SyntaxError, ValueError, pil.Image.DecompressionBombError) as error:
        raise DataError(
            f"no readable picture ({type(error).__name__})", "write it again, as PNG or JPEG"
        ) from None
    return torch.from_numpy(np.array(pixels))


def decode_base64(text: str) -> bytes:
    """The bytes of base64 text; raises DataError."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise DataError("a picture is no base64", "encode its bytes as base64") from None


def _read_npy(path: Path) -> Array:
    try:
        with path.open("rb") as file:
            found = np.lib.format.read_array(file, allow_pickle=False)
    except (ValueError, EOFError):
        raise DataError(
            "no .npy file of numbers that can be read", "write it with numpy.save"
        ) from None
    return np.asarray(found)


def _numbers(values: Any, what: str) -> Array:
    try:
        array = np.asarray(values)
    except (ValueError, OverflowError):
        raise DataError(f"{what}: rows of unequal length", "give a full array") from None
    if array.dtype.kind not in "fiu":
        raise DataError(f"{what} of {array.dtype} values", "give numbers")
    return array


def _finite(array: Array, what: str) -> npt.NDArray[np.float32]:
    with np.errstate(over="ignore"):
        found = np.ascontiguousarray(array, dtype=np.float32)
    if not np.isfinite(found).all():
        raise DataError(f"{what}: a value is not finite", "mend it or leave it out")
    return found
