"""The quality of a model on held-out samples, measured in small pieces of work.

With labels it is the share of them that a linear probe, fitted on the node's own training samples,
reads off frozen features; without, the share of samples that are found again by a view
(`evaluation.identification`). Both are percentages of the held-out samples, and neither depends on
the scale or the frame of a latent space, as losses do.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from gobelin.client.shadow.held_out import Parts
from gobelin.shared.data import Source
from gobelin.shared.evaluation.embed import draw, embed
from gobelin.shared.evaluation.evaluate import count_classes
from gobelin.shared.evaluation.identification import CANDIDATES, identify
from gobelin.shared.evaluation.probes import linear_probe
from gobelin.shared.model import Encoder

Measure: TypeAlias = Literal["probe", "identification"]
LABELS = 2000  # samples a probe is fitted on, at most
HELD = 1000  # held-out samples that are looked at, at most
WIDEST = 16_384  # numbers of all tokens together, beyond which they are mean-pooled
CHUNK = 256  # samples between two looks at the clock


@dataclass(frozen=True)
class Quality:
    """What was found of one model."""

    measure: Measure
    percent: float
    samples: int  # held-out ones that were looked at


Judging: TypeAlias = Generator[None, None, Quality]


def measure_of(parts: Parts) -> Measure:
    """What can be measured: a probe where both parts have labels of two classes or more."""
    assert parts.held is not None
    known, unseen = parts.kept.labels, parts.held.labels
    if known is None or unseen is None or bool((known == known[0]).all()):
        return "identification"
    return "probe" if int(unseen.max()) < count_classes(parts.kept) else "identification"


def judge(
    encoder: Encoder,
    load: Callable[[], None],
    parts: Parts,
    seed: int,
    device: torch.device | str = "cpu",
) -> Judging:
    """Measure a model, yielding between pieces of work; the generator's value is its quality.

    `load` puts the model into `encoder`, which others may use while this waits. The same samples
    and views are looked at for every model.
    """
    held = parts.held
    assert held is not None
    chosen = draw(held, HELD, seed, "premium held out")
    if measure_of(parts) == "identification":
        hits = []
        for rows in _chunks(chosen, CANDIDATES):
            load()
            hits.append(identify(encoder, held.read(rows).to(device), seed))
            yield
        return Quality("identification", _share(torch.cat(hits)), len(chosen))
    labels = draw(parts.kept, LABELS, seed, "premium labels")
    known = yield from _features(encoder, load, parts.kept, labels, device)
    unseen = yield from _features(encoder, load, held, chosen, device)
    found, _ = linear_probe(*known, *unseen, count_classes(parts.kept))
    return Quality("probe", found, len(chosen))


def _features(
    encoder: Encoder,
    load: Callable[[], None],
    source: Source[Any],
    indices: np.ndarray[Any, Any],
    device: torch.device | str,
) -> Generator[None, None, tuple[Tensor, Tensor]]:
    """Features (N, F) of samples, and their labels (N,): tokens, or their mean if they are many."""
    features, labels = [], []
    for rows in _chunks(indices, CHUNK):
        load()
        made = embed(encoder, source, rows, device=device)
        features.append(made.tokens if made.tokens.shape[1] <= WIDEST else made.pooled)
        labels.append(made.labels)
        yield
    return torch.cat(features), torch.cat(labels)


def _chunks(indices: np.ndarray[Any, Any], size: int) -> list[np.ndarray[Any, Any]]:
    """Pieces of nearly equal size: no candidate set is much smaller than another."""
    return list(np.array_split(indices, -(-len(indices) // size)))


def _share(hits: Tensor) -> float:
    return 100 * float(hits.double().mean())
