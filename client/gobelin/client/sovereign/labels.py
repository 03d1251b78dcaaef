"""A region's labelled samples: checked, split, weighed, and drawn in batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gobelin.shared.data import BatchStream, Labelled, Source, Subset
from gobelin.shared.data.partition import hold_out
from gobelin.shared.errors import LabelsError
from gobelin.shared.evaluation.embed import draw, require_labels

Indices = npt.NDArray[np.int64]
Balance = Literal["none", "loss", "sampling"]


@dataclass(frozen=True)
class Task:
    """What a head is fitted on, stopped by and measured on."""

    train: Source[Any]
    held: Source[Any]
    labelled: Source[Any]  # both
    test: Source[Any]  # the held-out part where nothing else is given
    names: tuple[str, ...]  # of the classes
    tested: bool  # whether `test` is a set of its own

    @property
    def classes(self) -> int:
        """K."""
        return len(self.names)

    @property
    def complete(self) -> Task:
        """With nothing held out, for what nothing stops, where a test set measures."""
        return replace(self, train=self.labelled) if self.tested else self

    @property
    def counts(self) -> Tensor:
        """Labels of each class that are fitted on (K,)."""
        return require_labels(self.train).bincount(minlength=self.classes)

    def weights(self, balance: Balance) -> Tensor | None:
        """Of each class in the loss (K,), so that all count the same; None where labels do.

        A class without labels has a weight that is never asked for.
        """
        if balance != "loss":
            return None
        counts = self.counts.clamp(min=1).float()
        return counts.sum() / (self.classes * counts)


def open_task(
    data: Source[Any],
    test: Source[Any] | None,
    *,
    classes: Sequence[str] = (),
    budget: int,
    held_out: float,
    seed: int,
) -> Task:
    """Labelled data, a share of them held out; raises LabelsError and DataError.

    `classes` names the head's classes; else the data do, or their highest label says how many.
    """
    labels = require_labels(data)
    names = _names(labels, data.class_names, tuple(classes), "the data")
    chosen = draw(data, budget, seed, "head labels")
    if len(torch.unique(labels[torch.from_numpy(chosen)])) < 2:
        what = "all labelled samples are of one class"
        raise LabelsError(what, "label samples of another class, too: a head tells classes apart")
    kept, held = _hold_out(labels, chosen, held_out, seed)
    if test is not None:
        require_labels(test)
        test = under_names(test, names, "the test samples")
    inner = Subset(data, held)
    labelled = Subset(data, np.sort(chosen))
    return Task(Subset(data, kept), inner, labelled, test or inner, names, test is not None)


def _hold_out(labels: Tensor, chosen: Indices, share: float, seed: int) -> tuple[Indices, Indices]:
    """A share of every class held out, one sample of it at least, and one at least kept."""
    kept, held = [], []
    of_chosen = labels.numpy()[chosen]
    for label in np.unique(of_chosen):
        own = chosen[of_chosen == label]
        if len(own) == 1:
            kept.append(own)
            continue
        count = min(len(own) - 1, max(1, round(share * len(own))))
        rest, out = hold_out(own, count / len(own), seed)
        kept.append(rest)
        held.append(out)
    if not held:
        what = f"{len(chosen)} labelled samples, one of a class, leave none to stop and measure by"
        raise LabelsError(what, "label two samples of a class at least")
    return np.sort(np.concatenate(kept)), np.sort(np.concatenate(held))


def _names(
    labels: Tensor, own: tuple[str, ...] | None, wanted: tuple[str, ...], where: str
) -> tuple[str, ...]:
    """Names of the classes 0 … K − 1; raises LabelsError on labels outside of them."""
    low, high = int(labels.min()), int(labels.max())
    if low < 0:
        raise LabelsError(f"{where} have a label {low}", "number classes from 0")
    names = wanted or own or tuple(str(label) for label in range(high + 1))
    most = max(high + 1, len(own or ()))
    if most > len(names):
        what = f"{where} have {most} classes, the head has {len(names)}"
        raise LabelsError(what, "name every class in labels.classes, or leave samples out")
    return names


def under_names(
    source: Source[Any], names: tuple[str, ...], where: str = "the samples"
) -> Source[Any]:
    """Samples under a head's labels, by the classes' names where both have some: an image folder
    sorts its classes, whatever the head's order. Unlabelled samples, and those for a model without
    classes, are left as they are. Raises LabelsError on classes the head has not.
    """
    labels, own = source.labels, source.class_names
    if labels is None or not names:
        return source
    if own is None or own == names[: len(own)]:
        _names(labels, None, names, where)
        return source
    unknown = sorted(set(own) - set(names))
    if unknown:
        what = f"{where} have a class {unknown[0]!r}, which the head has not"
        raise LabelsError(what, f"its classes are {', '.join(names[:12])}")
    return Relabelled(source, torch.tensor([names.index(name) for name in own])[labels], names)


class Relabelled(Subset[Any]):
    """A source under other labels (N,)."""

    def __init__(self, source: Source[Any], labels: Tensor, names: tuple[str, ...]) -> None:
        super().__init__(source, np.arange(len(source)))
        self.labels, self.class_names = labels, names


class LabelledStream:
    """Labelled batches, a pure function of seed and step; by classes in turn where balanced."""

    def __init__(self, source: Source[Any], batch_size: int, seed: int, balanced: bool) -> None:
        self._source, self._labels = source, require_labels(source)
        self._size, self._seed = max(2, min(batch_size, len(source))), seed
        self._stream = BatchStream(source, self._size, seed)
        found = self._labels.numpy()
        self._pools = [np.flatnonzero(found == k) for k in np.unique(found)] if balanced else []

    def batch(self, step: int) -> Labelled:
        """The batch of `step` ≥ 0."""
        indices = self._balanced(step) if self._pools else self._stream.indices(step)
        return Labelled(self._source.read(indices), self._labels[torch.from_numpy(indices)])

    def _balanced(self, step: int) -> Indices:
        random = np.random.default_rng((self._seed, step))
        turns = (step * self._size + np.arange(self._size)) % len(self._pools)
        return np.array([random.choice(self._pools[turn]) for turn in turns])
