"""Accuracy by labels of a frozen model and of the raw samples, under several probes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from torch import Tensor

from gobelin.shared.errors import ConfigError
from gobelin.shared.evaluation.attentive import attentive_probe
from gobelin.shared.evaluation.embed import Embedding
from gobelin.shared.evaluation.probes import DRAWS, knn, linear_probe
from gobelin.shared.evaluation.sample_efficiency import CurvePoint, Probe, sample_efficiency

Labelled = tuple[Tensor, Tensor]  # features (N, ...), labels (N,)


def _nearest(
    train_x: Tensor, train_y: Tensor, test_x: Tensor, test_y: Tensor, classes: int
) -> tuple[float, None]:
    return knn(train_x, train_y, test_x, test_y, classes), None


PROBES: dict[str, Probe] = {
    "linear": linear_probe,
    "knn": _nearest,
    "attentive": attentive_probe,
}
OF_TOKENS = ("attentive",)  # the others look at means


def model_curves(
    known: Embedding,
    unseen: Embedding,
    classes: int,
    probes: Sequence[str],
    shots: Sequence[int],
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> dict[str, list[CurvePoint]]:
    """The curve of each probe on a model's features; raises ConfigError on an unknown probe."""
    odd = [name for name in probes if name not in PROBES]
    if odd or not probes:
        what = f"there is no probe {odd[0]!r}" if odd else "no probe is named"
        raise ConfigError(what, f"known: {', '.join(PROBES)}")
    return {
        name: sample_efficiency(
            *features(known, name),
            *features(unseen, name),
            classes,
            shots=shots,
            probe=PROBES[name],
            draws=draws,
            seed=seed,
        )
        for name in probes
    }


def raw_curves(
    known: Labelled,
    unseen: Labelled,
    classes: int,
    probes: Sequence[str],
    shots: Sequence[int],
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> dict[str, list[CurvePoint]]:
    """The same on raw samples (N, F), but for probes of tokens, which raw samples have not."""
    return {
        name: sample_efficiency(
            *known, *unseen, classes, shots=shots, probe=PROBES[name], draws=draws, seed=seed
        )
        for name in probes
        if name not in OF_TOKENS
    }


def features(found: Embedding, probe: str) -> Labelled:
    """What a probe looks at: tokens (N, T, D) or their means (N, D), and labels."""
    if probe in OF_TOKENS:
        return found.tokens.view(len(found.tokens), -1, found.pooled.shape[1]), found.labels
    return found.pooled, found.labels


def curve_facts(curves: dict[str, list[CurvePoint]]) -> dict[str, list[dict[str, Any]]]:
    """Plain JSON."""
    return {name: [asdict(point) for point in curve] for name, curve in curves.items()}
