"""Probes: how much of the labels can be read off frozen features."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from gobelin.shared.errors import DataError
from gobelin.shared.seeds import generator_of

ITERATIONS = 80
LOGIT_DEVIATION = 3.0  # of the prior a head is fitted under
TEMPERATURE = 0.07  # of neighbours' votes (arXiv:1805.01978)
CHUNK = 1024  # test images compared with the whole bank at once
DRAWS = 5  # few-shot: label draws averaged over


@dataclass(frozen=True)
class LinearHead:
    """A linear classifier of features (N, F): logits = x Wᵀ + b."""

    weight: Tensor  # (K, F)
    bias: Tensor  # (K,)

    def logits(self, features: Tensor) -> Tensor:
        """Scores (N, K) of features (N, F)."""
        return F.linear(features, self.weight, self.bias)

    def predict(self, features: Tensor) -> Tensor:
        """The likeliest class (N,) of features (N, F)."""
        return self.logits(features).argmax(dim=1)


def fit_head(
    features: Tensor,  # (N, F)
    labels: Tensor,  # (N,)
    classes: int,
    *,
    iterations: int = ITERATIONS,
    weights: Tensor | None = None,  # (K,), of each class in the loss
) -> LinearHead:
    """Multinomial logistic regression by full-batch L-BFGS: deterministic, from zero weights.

    The L2 term is the Gaussian prior under which logits deviate by LOGIT_DEVIATION, whatever the
    number of features F and labels N: one setting fits 2,048 features and 128, 20,000 labels and
    100. Features are standardised on the way in and the head is folded back, so it takes them as
    they are. Raises DataError on a single class or features that are not finite.
    """
    require_labelled(features, labels, classes)
    if bool((labels == labels[0]).all()):
        raise DataError("all labelled images are of one class", "a probe needs at least two")
    mean = features.mean(dim=0)
    scale = features.std(dim=0, correction=0)
    # A dimension that never changes says nothing: it must not be blown up by its rounding.
    scale = torch.where(scale > 1e-6 * (1 + mean.abs()), scale, torch.inf)
    x = (features - mean) / scale  # (N, F)
    l2 = x.shape[1] / (len(x) * LOGIT_DEVIATION**2)
    weight = torch.zeros(classes, x.shape[1], device=x.device, requires_grad=True)
    bias = torch.zeros(classes, device=x.device, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight, bias],
        max_iter=iterations,
        history_size=10,
        tolerance_grad=1e-5,
        tolerance_change=1e-7,
        line_search_fn="strong_wolfe",
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(F.linear(x, weight, bias), labels, weights)
        value = value + l2 * weight.square().sum() / 2
        value.backward()  # type: ignore[no-untyped-call]
        return value

    with torch.enable_grad():
        optimizer.step(loss)  # type: ignore[no-untyped-call]
    folded = weight.detach() / scale
    return LinearHead(folded, bias.detach() - folded @ mean)


def linear_probe(
    train_x: Tensor, train_y: Tensor, test_x: Tensor, test_y: Tensor, classes: int
) -> tuple[float, LinearHead]:
    """Test accuracy in percent of a linear head on (N, F) features, and the head itself."""
    require_labelled(test_x, test_y, classes)
    head = fit_head(train_x, train_y, classes)
    return accuracy(head.predict(test_x), test_y), head


def few_shot(
    train_x: Tensor,
    train_y: Tensor,
    test_x: Tensor,
    test_y: Tensor,
    classes: int,
    *,
    shots: int = 10,
    seed: int = 0,
) -> float:
    """Mean test accuracy in percent of linear heads on `shots` labels a class, over a few draws.

    A class with fewer images than `shots` gives what it has.
    """
    found = few_shot_draws(train_x, train_y, test_x, test_y, classes, shots=shots, seed=seed)
    return sum(found) / len(found)


def few_shot_draws(
    train_x: Tensor,
    train_y: Tensor,
    test_x: Tensor,
    test_y: Tensor,
    classes: int,
    *,
    shots: int,
    probe: Callable[[Tensor, Tensor, Tensor, Tensor, int], tuple[float, Any]] = linear_probe,
    draws: int = DRAWS,
    seed: int = 0,
) -> list[float]:
    """Test accuracy in percent of a probe on `shots` labels a class, for each draw of them.

    A draw's labels at fewer shots are among those at more.
    """
    require_labelled(train_x, train_y, classes)
    found = []
    for draw in range(draws):
        chosen = few_of(train_y, classes, shots, draw, seed)
        found.append(probe(train_x[chosen], train_y[chosen], test_x, test_y, classes)[0])
    return found


def few_of(labels: Tensor, classes: int, shots: int, draw: int, seed: int = 0) -> Tensor:
    """Where one draw of `shots` labels a class lies among labels (N,); a class may have fewer."""
    generator = generator_of(seed, "few shots", draw)
    order = torch.randperm(len(labels), generator=generator).to(labels.device)
    shuffled = labels[order]
    return torch.cat([order[shuffled == label][:shots] for label in range(classes)])


def knn(
    train_x: Tensor, train_y: Tensor, test_x: Tensor, test_y: Tensor, classes: int, *, k: int = 20
) -> float:
    """Test accuracy in percent of the k nearest neighbours by cosine, their votes weighted.

    Weights are exp(cosine / 0.07), as in instance discrimination (arXiv:1805.01978).
    """
    require_labelled(train_x, train_y, classes)
    require_labelled(test_x, test_y, classes)
    centre = train_x.mean(dim=0)  # without it, pooled features all point the same way
    bank = F.normalize(train_x - centre, dim=1)
    votes_of = F.one_hot(train_y, classes).to(bank.dtype)  # (N, K)
    predictions = []
    for chunk in torch.split(test_x, CHUNK):
        cosine = F.normalize(chunk - centre, dim=1) @ bank.T  # (b, N)
        near, index = cosine.topk(min(k, len(bank)), dim=1)
        weights = ((near - 1) / TEMPERATURE).exp()[:, :, None]
        predictions.append((weights * votes_of[index]).sum(dim=1).argmax(dim=1))
    return accuracy(torch.cat(predictions), test_y)


def accuracy(predicted: Tensor, labels: Tensor) -> float:
    """Share of (N,) predictions that are right, in percent."""
    return 100 * float((predicted == labels).double().mean())


def require_labelled(features: Tensor, labels: Tensor, classes: int) -> None:
    """Raise DataError unless features (N, F) are finite and have N labels below `classes`."""
    if len(features) != len(labels) or not len(labels):
        raise DataError(f"{len(features)} features have {len(labels)} labels")
    if not bool(torch.isfinite(features).all()):
        raise DataError(
            "the model's features hold NaN or infinity",
            "it has diverged: use an earlier checkpoint",
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        wrong = low if low < 0 else high
        raise DataError(
            f"label {wrong} is not among the {classes} classes of the training labels",
            "use the same classes for training and testing",
        )
