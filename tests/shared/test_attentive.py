"""The attentive probe finds what mean pooling drowns; curves rise with labels."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor

from gobelin.shared.errors import ConfigError, DataError
from gobelin.shared.evaluation.attentive import attentive_probe, fit_attentive
from gobelin.shared.evaluation.probes import few_shot, linear_probe
from gobelin.shared.evaluation.sample_efficiency import sample_efficiency

CLASSES, TOKENS, DIM = 4, 16, 12


def marked(samples: int, seed: int) -> tuple[Tensor, Tensor]:
    """Tokens (N, T, D) that all name classes; the marked one, anywhere, names the label."""
    random = torch.Generator().manual_seed(seed)
    named = torch.randint(CLASSES, (samples, TOKENS), generator=random)
    where = torch.randint(TOKENS, (samples,), generator=random)
    tokens = 0.3 * torch.randn(samples, TOKENS, DIM, generator=random)
    tokens[..., :CLASSES] += 2 * torch.nn.functional.one_hot(named, CLASSES)
    rows = torch.arange(samples)
    tokens[rows, where, CLASSES] += 2
    return tokens, named[rows, where]


@pytest.fixture(scope="module")
def data() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return *marked(1500, 0), *marked(500, 1)


def test_attention_reads_what_mean_pooling_and_position_cannot(
    data: tuple[Tensor, Tensor, Tensor, Tensor],
) -> None:
    train_x, train_y, test_x, test_y = data
    attentive, _ = attentive_probe(*data, CLASSES, steps=300)
    pooled, _ = linear_probe(train_x.mean(1), train_y, test_x.mean(1), test_y, CLASSES)
    flat, _ = linear_probe(train_x.flatten(1), train_y, test_x.flatten(1), test_y, CLASSES)
    assert attentive > 95
    assert max(pooled, flat) < 55


def test_a_head_is_a_function_of_the_seed_and_leaves_other_streams_alone() -> None:
    tokens, labels = marked(60, 2)
    torch.manual_seed(1)
    first = fit_attentive(tokens, labels, CLASSES, steps=5)
    drawn = torch.rand(())
    torch.manual_seed(1)
    assert torch.equal(drawn, torch.rand(()))
    again, other = (fit_attentive(tokens, labels, CLASSES, steps=5, seed=s) for s in (0, 1))
    assert torch.equal(first(tokens), again(tokens))
    assert not torch.equal(first(tokens), other(tokens))


def test_scale_and_offset_of_features_do_not_matter() -> None:
    tokens, labels = marked(60, 2)
    plain = fit_attentive(tokens, labels, CLASSES, steps=5)
    moved = fit_attentive(1000 * tokens - 3000, labels, CLASSES, steps=5)
    torch.testing.assert_close(plain(tokens), moved(1000 * tokens - 3000), rtol=1e-2, atol=1e-3)


def test_a_dead_dimension_does_no_harm() -> None:
    tokens, labels = marked(60, 2)
    tokens[..., -1] = 0.1
    head = fit_attentive(tokens, labels, CLASSES, steps=5)
    assert bool(torch.isfinite(head(tokens)).all())


@pytest.mark.parametrize("bad", ["flat", "nan", "labels"])
def test_unusable_tokens_are_refused(bad: str) -> None:
    tokens, labels = marked(20, 0)
    if bad == "flat":
        tokens = tokens.flatten(1)
    elif bad == "nan":
        tokens[3, 2, 1] = torch.nan
    else:
        labels = labels + CLASSES
    with pytest.raises(DataError):
        fit_attentive(tokens, labels, CLASSES)


# ---------------------------------------------------------------- sample efficiency


def blobs(samples: int, seed: int) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, (samples,), generator=random)
    noise = torch.randn(samples, 20, generator=random)
    return noise + 2 * torch.nn.functional.one_hot(labels, 20), labels


def test_a_curve_rises_with_labels_and_settles() -> None:
    curve = sample_efficiency(*blobs(1000, 0), *blobs(500, 1), CLASSES, shots=(50, 1, 5))
    assert [point.shots for point in curve] == [1, 5, 50]
    assert [point.labels for point in curve] == [4, 20, 200]
    one, five, fifty = curve
    assert one.accuracy + 5 < five.accuracy < fifty.accuracy
    assert one.deviation > fifty.deviation > 0


def test_a_curves_point_is_the_few_shot_figure() -> None:
    data = (*blobs(300, 0), *blobs(200, 1))
    (point,) = sample_efficiency(*data, CLASSES, shots=[10], seed=3)
    assert point.accuracy == pytest.approx(few_shot(*data, CLASSES, shots=10, seed=3))


def test_a_class_with_too_few_images_gives_what_it_has() -> None:
    features, labels = blobs(300, 0)
    kept = (labels != 0) | (torch.cumsum(labels == 0, dim=0) <= 3)
    data = (features[kept], labels[kept], *blobs(100, 1))
    (point,) = sample_efficiency(*data, CLASSES, shots=[10], draws=1)
    assert (point.labels, point.deviation) == (33, 0.0)


def test_labels_at_few_shots_are_among_those_at_more() -> None:
    seen: list[set[float]] = []

    def spy(train_x: Tensor, *_: object) -> tuple[float, None]:
        seen.append(set(train_x[:, 0].tolist()))
        return 0.0, None

    sample_efficiency(*blobs(200, 0), *blobs(9, 1), CLASSES, shots=(2, 7), probe=spy, draws=2)
    few, many = seen[:2], seen[2:]
    assert all(a < b for a, b in zip(few, many, strict=True))
    assert few[0] != few[1]


def test_a_curve_takes_any_probe(data: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    probe = partial(attentive_probe, steps=150)
    few, many = sample_efficiency(*data, CLASSES, shots=(2, 200), probe=probe, draws=1)
    assert few.accuracy + 15 < many.accuracy


def test_a_curve_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigError):
        sample_efficiency(*blobs(20, 0), *blobs(20, 1), CLASSES, shots=(0, 5))
