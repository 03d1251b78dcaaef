"""Embedding: samples of a source as the frozen features of a model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from gobelin.shared.data import Batch, Source
from gobelin.shared.errors import ConfigError, DataError
from gobelin.shared.modality import AnyModality
from gobelin.shared.seeds import derive_seed

BATCH = 256


class Encoder(Protocol):
    """What can be embedded with: raw samples (B, ...) → prepared ones → tokens (B, T, D), and
    their mean."""

    def prepare(self, batch: Batch) -> Tensor: ...

    def tokens(self, prepared: Tensor) -> Tensor: ...

    def pool(self, tokens: Tensor, prepared: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Embedding:
    """Features of N labelled samples."""

    tokens: Tensor  # (N, T * D) fp32: where in the sample things are is kept
    pooled: Tensor  # (N, D) fp32: the mean over tokens
    labels: Tensor  # (N,)


def embed(
    model: Encoder,
    source: Source,
    indices: npt.NDArray[np.int64] | None = None,
    *,
    device: torch.device | str = "cpu",
    batch: int = BATCH,
) -> Embedding:
    """Embed the labelled samples at `indices` (all of them by default), on `device`.

    The result holds 4 * T * D bytes an image. Raises DataError on a source without labels.
    """
    labels = require_labels(source)
    chosen = np.arange(len(source)) if indices is None else indices
    if not len(chosen):
        raise DataError("there are no images to embed", "give labelled images")
    tokens, pooled = [], []
    with at_rest(model), torch.no_grad():
        for start in range(0, len(chosen), batch):
            samples = source.read(chosen[start : start + batch]).to(device)
            prepared = model.prepare(samples)
            out = model.tokens(prepared).float()  # (b, T, D)
            tokens.append(out.flatten(1))
            pooled.append(model.pool(out, prepared))
    of_chosen = labels[torch.from_numpy(chosen)].to(device)
    return Embedding(torch.cat(tokens), torch.cat(pooled), of_chosen)


def raw(
    modality: AnyModality,
    source: Source,
    indices: npt.NDArray[np.int64] | None = None,
    *,
    device: torch.device | str = "cpu",
) -> tuple[Tensor, Tensor]:
    """The prepared samples themselves, flattened, as features (N, F), and their labels (N,)."""
    labels = require_labels(source)
    chosen = np.arange(len(source)) if indices is None else indices
    flat = modality.prepare(source.read(chosen).to(device)).flatten(1).float()
    return flat, labels[torch.from_numpy(chosen)].to(device)


def draw(source: Source, count: int, seed: int, purpose: str) -> npt.NDArray[np.int64]:
    """`count` random images of a source (all if it has fewer), sorted to be cheap to read."""
    rng = np.random.default_rng(derive_seed(seed, purpose))
    return np.sort(rng.permutation(len(source))[:count])


def require_labels(source: Source) -> Tensor:
    """The labels (N,) of a source; raises DataError where it has none."""
    if source.labels is None:
        raise DataError(
            "the images have no labels",
            "give a labels file, a `label` column, or one sub-folder a class",
        )
    return source.labels


def require_device(name: str) -> torch.device:
    """The device called `name`; raises ConfigError where this machine does not have it."""
    try:
        return torch.empty(1, device=name).device
    except (RuntimeError, AssertionError, NotImplementedError):
        what = f"device {name!r} does not exist here, or torch was built without it"
        raise ConfigError(what, "use cpu, or install a torch built for it") from None


@contextmanager
def at_rest(model: Encoder) -> Iterator[None]:
    """The model in evaluation mode, and afterwards as it was."""
    if not isinstance(model, nn.Module):
        yield
        return
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
