"""Benchmarks of a region: what a model is asked there, whatever its data are.

A benchmark measures a contender in figures that can be asked of any resample of the test data, so
that all contenders are compared sample by sample. Higher is better in all of them. For world
models see `world_benchmarks`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor

from gobelin.shared.data import Source, Subset
from gobelin.shared.errors import DataError
from gobelin.shared.evaluation.anomaly import Mahalanobis, NearestNeighbours
from gobelin.shared.evaluation.corruptions import SEVERITIES
from gobelin.shared.evaluation.embed import Embedding, draw, embed, require_labels
from gobelin.shared.evaluation.frozen_probe import fit_probe
from gobelin.shared.evaluation.intervals import (
    Balanced,
    Found,
    Indices,
    Mean,
    Ranking,
    Share,
    Statistic,
)
from gobelin.shared.evaluation.probes import few_of, require_labelled
from gobelin.shared.evaluation.shift import Shift, shift_of
from gobelin.shared.model import Encoder

LABELS = 20_000  # labelled samples a probe is fitted on at most
SAMPLES = 10_000  # test samples at most
NEIGHBOURS = 5
SHRINKAGE = 0.05  # of whitening: normal samples may be few for where they hardly spread
CHUNK = 1024  # samples a head reads at once

Read = Callable[[Tensor], Tensor]  # tokens (B, N, D) → logits (B, K)


@dataclass(frozen=True, eq=False)
class Contender:
    """A model that is measured. Without a head of its own it gets a linear probe of its tokens,
    fitted on the benchmark's training labels as a build's head is (`frozen_probe`)."""

    name: str
    encoder: Encoder  # on the benchmark's device
    head: Read | None = None


@dataclass(frozen=True, eq=False)
class Measured:
    """What a benchmark found of one contender: figures by name, the first being the headline."""

    figures: Mapping[str, Statistic]
    logits: Tensor | None = None  # (N, K) of a classifier
    labels: Tensor | None = None  # (N,)
    facts: Mapping[str, Any] = field(default_factory=dict)  # further figures without an interval


class Benchmark(Protocol):
    """One question to all contenders."""

    @property
    def name(self) -> str: ...

    @property
    def kind(self) -> str:
        """classification, anomaly, foresight or planning."""
        ...

    @property
    def units(self) -> str:
        """What is redrawn for an interval, in words: samples, windows, episodes."""
        ...

    def measure(self, contender: Contender) -> Measured:
        """The same test data for every contender; raises DataError."""
        ...


@dataclass(frozen=True, eq=False)
class Classification:
    """Which class a labelled sample is of."""

    name: str
    train: Source  # a contender without a head is probed with
    test: Source
    classes: int
    labels: int = LABELS
    samples: int = SAMPLES
    seed: int = 0
    device: str = "cpu"
    kind: ClassVar[str] = "classification"
    units: ClassVar[str] = "samples"

    def measure(self, contender: Contender) -> Measured:
        """Accuracy, and accuracy balanced over classes."""
        logits, labels = self._logits(contender, self._asked())
        hits = (logits.argmax(dim=1) == labels).cpu().numpy()
        found: dict[str, Statistic] = {
            "accuracy": Share(hits),
            "balanced_accuracy": Balanced(hits, labels.cpu().numpy()),
        }
        return Measured(found, logits, labels, {"recall": _recall(hits, labels, self.classes)})

    def shift(
        self,
        contender: Contender,
        severities: Sequence[int] = SEVERITIES,
        samples: int = SAMPLES,
    ) -> tuple[Shift, Statistic]:
        """Accuracy under corruptions no contender has seen, and its mean over them as a figure.

        Raises ConfigError where the modality has no corruptions.
        """
        head, kept = self._head(contender), []

        def right(source: Source) -> Tensor:
            logits, labels = _read(contender.encoder, head, source, self.device)
            kept.append((logits.argmax(dim=1) == labels).cpu())
            return kept[-1]

        modality = contender.encoder.modality
        found = shift_of(
            right, modality, self.test, severities=severities, samples=samples, seed=self.seed
        )
        corrupted = torch.stack(kept[:-1]).double().mean(dim=0)  # (N,), the clean ones are last
        return found, Mean(100 * corrupted.numpy())

    def few_shot(
        self, contender: Contender, shots: Sequence[int], draws: int
    ) -> dict[int, list[Statistic]]:
        """Of a frozen contender's probe: accuracy by labels a class, for each draw of them."""
        known = embed(contender.encoder, self.train, self._known(), device=self.device)
        unseen = embed(contender.encoder, self._asked(), device=self.device)
        require_labelled(unseen.tokens, unseen.labels, self.classes)
        found: dict[int, list[Statistic]] = {}
        for each in shots:
            found[each] = []
            for number in range(draws):
                few = few_of(known.labels, self.classes, each, number, self.seed)
                part = Embedding(known.tokens[few], known.pooled[few], known.labels[few])
                probe = fit_probe(part, self.classes, seed=self.seed)
                hits = probe.predict(unseen) == unseen.labels
                found[each].append(Share(hits.cpu().numpy()))
        return found

    def few(self, shots: int, number: int) -> Indices:
        """The training samples of one draw of `shots` labels a class: those of `few_shot`."""
        known = self._known()
        labels = require_labels(self.train)[torch.from_numpy(known)]
        chosen = few_of(labels, self.classes, shots, number, self.seed)
        return np.sort(known[chosen.numpy()])

    def _known(self) -> Indices:
        return draw(self.train, self.labels, self.seed, "probe labels")

    def _asked(self) -> Source:
        return Subset(self.test, draw(self.test, self.samples, self.seed, "test samples"))

    def _head(self, contender: Contender) -> Read:
        if contender.head is not None:
            return contender.head
        known = embed(contender.encoder, self.train, self._known(), device=self.device)
        return fit_probe(known, self.classes, seed=self.seed).logits

    def _logits(self, contender: Contender, source: Source) -> tuple[Tensor, Tensor]:
        logits, labels = _read(contender.encoder, self._head(contender), source, self.device)
        require_labelled(logits, labels, self.classes)
        if logits.shape[1] != self.classes:
            what = f"{contender.name} tells {logits.shape[1]} classes apart, not {self.classes}"
            raise DataError(what, "test it on data of its own classes")
        return logits, labels


@dataclass(frozen=True, eq=False)
class Anomaly:
    """Which samples are unlike the normal ones, by the distance to the nearest of those in a
    contender's whitened features; no head is asked."""

    name: str
    normal: Source  # labels are not looked at
    test: Source  # labelled
    anomalous: tuple[int, ...]  # labels of the test samples that should be found
    labels: int = LABELS
    samples: int = SAMPLES
    seed: int = 0
    device: str = "cpu"
    kind: ClassVar[str] = "anomaly"
    units: ClassVar[str] = "samples"

    def measure(self, contender: Contender) -> Measured:
        """AUROC, and the share found at 5 % false alarms; raises DataError where a kind of
        samples is missing."""
        chosen = draw(self.normal, self.labels, self.seed, "normal samples")
        part = Subset(self.test, draw(self.test, self.samples, self.seed, "test samples"))
        known = pooled(contender.encoder, self.normal, chosen, self.device)
        asked = embed(contender.encoder, part, device=self.device)
        space = Mahalanobis.of(known, SHRINKAGE)
        near = NearestNeighbours(space.whiten(known).float(), min(NEIGHBOURS, len(known)))
        scores = near.score(space.whiten(asked.pooled)).double().cpu().numpy()
        odd = torch.isin(asked.labels.cpu(), torch.tensor(self.anomalous)).numpy()
        if odd.all() or not odd.any():
            what = f"{int(odd.sum())} of {len(odd)} test samples are anomalous"
            raise DataError(what, "test on both normal and anomalous samples")
        return Measured({"auroc": Ranking(scores, odd), "found": Found(scores, odd)})


def pooled(encoder: Encoder, source: Source, chosen: Indices, device: str) -> Tensor:
    """Mean features (N, D) of samples, labelled or not."""
    return embed(encoder, _Unlabelled(source), chosen, device=device).pooled


class _Unlabelled:
    """A source whose labels, if any, nobody looks at."""

    class_names = None

    def __init__(self, source: Source) -> None:
        self._source = source
        self.labels = torch.zeros(len(source), dtype=torch.int64)
        self.block, self.skipped = source.block, source.skipped

    def __len__(self) -> int:
        return len(self._source)

    def read(self, indices: Indices) -> Tensor:
        return self._source.read(indices)


def tokens_of(found: Embedding) -> Tensor:
    """Tokens (N, T, D) of an embedding."""
    return found.tokens.view(len(found.tokens), -1, found.pooled.shape[1])


@torch.no_grad()
def _read(encoder: Encoder, head: Read, source: Source, device: str) -> tuple[Tensor, Tensor]:
    """Logits (N, K) and labels (N,) of all samples of a source."""
    found = embed(encoder, source, device=device)
    logits = [head(part) for part in torch.split(tokens_of(found), CHUNK)]
    return torch.cat(logits).float(), found.labels


def _recall(hits: Any, labels: Tensor, classes: int) -> list[float | None]:
    """Percent of each class's samples that are told right; None for a class without any."""
    of = labels.cpu().numpy()
    return [100 * float(hits[of == k].mean()) if (of == k).any() else None for k in range(classes)]
