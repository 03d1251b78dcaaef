"""Probes read labels off features, no better and no worse than can be known."""

import pytest
import torch

from gobelin.shared.errors import DataError
from gobelin.shared.evaluation.probes import few_shot, fit_head, knn, linear_probe


def blobs(count, classes=4, features=12, spread=1.0, seed=0):
    """Gaussian classes around fixed centres, on features of wildly different scales."""
    centres = 3 * torch.randn(classes, features, generator=torch.Generator().manual_seed(99))
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (count,), generator=generator)
    noise = spread * torch.randn(count, features, generator=generator)
    return (centres[labels] + noise) * torch.logspace(-3, 3, features), labels


def test_separable_classes_are_read_by_every_probe():
    data = (*blobs(400), *blobs(200, seed=1), 4)
    assert linear_probe(*data)[0] > 99
    assert few_shot(*data) > 97
    close = (*blobs(400, spread=0.3), *blobs(200, spread=0.3, seed=1), 4)
    assert knn(*close) > 97


def test_random_labels_are_read_at_chance():
    x, _ = blobs(2000)
    y = torch.randint(0, 4, (2000,), generator=torch.Generator().manual_seed(5))
    for probe in (knn, few_shot):
        assert 18 < probe(x[:1000], y[:1000], x[1000:], y[1000:], 4) < 32
    assert 18 < linear_probe(x[:1000], y[:1000], x[1000:], y[1000:], 4)[0] < 32


def test_the_head_is_the_same_each_time_and_takes_features_as_they_are():
    x, y = blobs(300)
    first, second = fit_head(x, y, 4), fit_head(x, y, 4)
    assert torch.equal(first.weight, second.weight)
    assert torch.equal(first.bias, second.bias)
    moved = fit_head(x * 7 - 2, y, 4)
    assert torch.allclose(moved.logits(x * 7 - 2), first.logits(x), atol=2e-2)


def test_the_head_minimises_its_regularised_loss():
    x, y = blobs(200, spread=4.0)
    head = fit_head(x, y, 4, iterations=500)
    mean, scale = x.mean(0), x.std(0, correction=0)
    weight = (head.weight * scale).requires_grad_()
    bias = (head.bias + head.weight @ mean).requires_grad_()
    logits = ((x - mean) / scale) @ weight.T + bias
    loss = torch.nn.functional.cross_entropy(logits, y)
    (loss + 12 / (200 * 9) * weight.square().sum() / 2).backward()
    assert weight.grad.abs().max() < 1e-3
    assert bias.grad.abs().max() < 1e-3


def test_a_dimension_that_never_changes_does_no_harm():
    x, y = blobs(300)
    x = torch.cat([x, torch.full((300, 1), 7.0)], dim=1)
    head = fit_head(x, y, 4)
    assert bool(torch.isfinite(head.weight).all())
    assert head.weight[:, -1].abs().max() == 0


def test_a_neighbour_is_the_nearest_one():
    x = torch.eye(3)
    assert knn(x, torch.arange(3), x, torch.arange(3), 3, k=1) == 100


def test_one_class_nan_and_strange_labels_are_refused():
    x, y = blobs(50)
    with pytest.raises(DataError, match="one class"):
        fit_head(x, torch.zeros(50, dtype=torch.long), 4)
    with pytest.raises(DataError, match="label 9 is not among the 4 classes"):
        linear_probe(x, y, x, torch.full((50,), 9), 4)
    with pytest.raises(DataError, match="label -1"):
        knn(x, y - 1, x, y, 4)
    with pytest.raises(DataError, match="50 features have 49 labels"):
        fit_head(x, y[:49], 4)
    x[3, 2] = torch.nan
    for probe in (linear_probe, knn, few_shot):
        with pytest.raises(DataError, match="NaN or infinity"):
            probe(x, y, x, y, 4)
