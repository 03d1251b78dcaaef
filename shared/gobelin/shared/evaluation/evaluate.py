"""Evaluation: all probes of one model, on features of labelled images it was not trained on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from gobelin.shared.data import Source
from gobelin.shared.evaluation.attentive import attentive_probe
from gobelin.shared.evaluation.embed import (
    BATCH,
    Encoder,
    draw,
    embed,
    raw,
    require_labels,
)
from gobelin.shared.evaluation.label_curves import features
from gobelin.shared.evaluation.probes import accuracy, few_shot, knn, linear_probe, require_labelled
from gobelin.shared.health import deviations, effective_rank
from gobelin.shared.modality import AnyModality

LABELS = 20_000  # labelled training images a probe gets


@dataclass(frozen=True)
class Evaluation:
    """Accuracies in percent on the test images, and the health of the features."""

    tokens: float  # linear probe on flattened tokens: the figure Gobelin compares by
    pooled: float | None  # linear probe on mean-pooled tokens; None for raw samples
    knn: float  # 20 nearest neighbours, mean-pooled
    few_shot: float  # linear probe on 10 labels a class, mean-pooled
    effective_rank: float  # of the mean-pooled test features
    deviation: float  # mean standard deviation of their dimensions
    train_images: int
    test_images: int
    loss: float | None = None  # JEPA loss on the test images, where it was measured
    also: Mapping[str, float] = field(default_factory=dict)  # token probe on further test sets
    attentive: float | None = None  # attentive probe on tokens, where it was asked for

    def facts(self) -> dict[str, Any]:
        """Plain JSON."""
        return {**asdict(self), "also": dict(self.also)}


def evaluate_model(
    model: Encoder,
    train: Source,
    test: Source,
    *,
    label_budget: int = LABELS,
    seed: int = 0,
    also: Mapping[str, Source] | None = None,
    loss: float | None = None,
    device: torch.device | str = "cpu",
    batch: int = BATCH,
    attentive: bool = False,
) -> Evaluation:
    """Probe the frozen features of `model` (on `device`), with heads fitted on `train`.

    The token head is also tested on the sets of `also`, such as each member's held-out images;
    the attentive probe, which takes longest, is fitted only if asked for.
    Raises DataError on missing labels, a single class, or features that are not finite.
    """
    classes = count_classes(train)
    chosen = draw(train, label_budget, seed, "probe labels")
    known = embed(model, train, chosen, device=device, batch=batch)
    unseen = embed(model, test, device=device, batch=batch)
    tokens, head = linear_probe(known.tokens, known.labels, unseen.tokens, unseen.labels, classes)
    elsewhere = {}
    for name, source in (also or {}).items():
        other = embed(model, source, device=device, batch=batch)
        require_labelled(other.tokens, other.labels, classes)
        elsewhere[name] = accuracy(head.predict(other.tokens), other.labels)
    pooled = (known.pooled, known.labels, unseen.pooled, unseen.labels)
    reader = None
    if attentive:
        pairs = (*features(known, "attentive"), *features(unseen, "attentive"))
        reader = attentive_probe(*pairs, classes, seed=seed)[0]
    return Evaluation(
        tokens=tokens,
        pooled=linear_probe(*pooled, classes)[0],
        knn=knn(*pooled, classes),
        few_shot=few_shot(*pooled, classes, seed=seed),
        effective_rank=effective_rank(unseen.pooled),
        deviation=float(deviations(unseen.pooled).mean()),
        train_images=len(chosen),
        test_images=len(test),
        loss=loss,
        also=elsewhere,
        attentive=reader,
    )


def evaluate_raw(
    modality: AnyModality,
    train: Source,
    test: Source,
    *,
    label_budget: int = LABELS,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> Evaluation:
    """The same probes on the raw samples themselves: what any model must beat."""
    classes = count_classes(train)
    chosen = draw(train, label_budget, seed, "probe labels")
    features = (
        *raw(modality, train, chosen, device=device),
        *raw(modality, test, device=device),
    )
    return Evaluation(
        tokens=linear_probe(*features, classes)[0],
        pooled=None,
        knn=knn(*features, classes),
        few_shot=few_shot(*features, classes, seed=seed),
        effective_rank=effective_rank(features[2]),
        deviation=float(deviations(features[2]).mean()),
        train_images=len(chosen),
        test_images=len(test),
    )


def count_classes(source: Source) -> int:
    """How many classes a labelled source has: by its class names, or its highest label."""
    labels = require_labels(source)
    return max(int(labels.max()) + 1, len(source.class_names or ()))
