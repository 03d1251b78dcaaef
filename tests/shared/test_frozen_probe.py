"""Which head few labels are given where nobody says."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gobelin.shared.evaluation.embed import Embedding
from gobelin.shared.evaluation.frozen_probe import FEW, better_kind, fit_probe

TOKENS, DIM, CLASSES = 16, 8, 3


def embedding(samples: int, *, where: bool) -> Embedding:
    """Samples whose class is where a thing is, or what it is wherever it is."""
    random = torch.Generator().manual_seed(5)
    labels = torch.arange(samples) % CLASSES
    tokens = torch.randn(samples, TOKENS, DIM, generator=random)
    if where:
        tokens[torch.arange(samples), labels * 5, 0] += 8
    else:
        tokens[torch.arange(samples), :, labels] += 0.7
    return Embedding(tokens.flatten(1), tokens.mean(dim=1), labels)


@pytest.mark.parametrize(("where", "kind"), [(True, "linear"), (False, "pooled")])
def test_few_labels_say_whether_places_matter(where: bool, kind: str) -> None:
    known = embedding(30, where=where)
    for seed in range(3):
        assert better_kind(known, CLASSES, None, seed) == kind


def test_many_labels_read_all_tokens() -> None:
    assert better_kind(embedding(FEW, where=False), CLASSES, None, 0) == "linear"


@pytest.mark.parametrize("labels", [[0, 0, 0, 1], [0, 2, 1]])
def test_a_class_with_one_sample_leaves_nothing_to_compare_by(labels: list[int]) -> None:
    known = embedding(len(labels), where=False)
    few = Embedding(known.tokens, known.pooled, torch.tensor(labels))
    assert better_kind(few, CLASSES, None, 0) == "linear"


def test_a_class_nobody_has_is_no_class_with_too_few() -> None:
    known = embedding(30, where=False)
    assert better_kind(known, CLASSES + 2, torch.ones(CLASSES + 2), 0) == "pooled"


def test_the_choice_is_the_same_on_every_run() -> None:
    known = embedding(12, where=True)
    weights: Tensor = torch.tensor([1.0, 2.0, 0.5])
    assert len({better_kind(known, CLASSES, weights, seed=3) for _ in range(3)}) == 1


@pytest.mark.parametrize("where", [True, False])
def test_a_probe_reads_tokens_and_embedded_samples_alike(where: bool) -> None:
    known = embedding(30, where=where)
    probe = fit_probe(known, CLASSES)
    logits = probe.logits(known.tokens.unflatten(1, (TOKENS, DIM)))
    assert torch.equal(logits.argmax(dim=1), probe.predict(known))
    assert float((probe.predict(known) == known.labels).float().mean()) > 0.9
