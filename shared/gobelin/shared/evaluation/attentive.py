"""Attentive probe: what can be read off frozen tokens by a reader that chooses where to look.

One learned query attends to an image's tokens (V-JEPA, arXiv:2404.08471, with a single layer), and
a linear classifier reads what it gathers. It tells a model that keeps what matters in a few tokens
from one that has lost it; mean pooling cannot.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gobelin.shared.errors import DataError
from gobelin.shared.evaluation.probes import accuracy, require_labelled
from gobelin.shared.seeds import generator_of

STEPS = 600
BATCH = 256
LEARNING_RATE = 3e-3
WEIGHT_DECAY = 0.05
HEADS = 4
CHUNK = 1024  # images predicted at once


class AttentiveHead(nn.Module):
    """One query's cross-attention over tokens (N, T, D), and a linear classifier (N, K)."""

    mean: Tensor  # (D,)
    scale: Tensor  # (D,)

    def __init__(self, dim: int, classes: int, heads: int, seed: int) -> None:
        super().__init__()
        if dim % heads:
            raise DataError(f"{heads} heads do not divide tokens of {dim}", "ask for fewer heads")
        self.heads = heads
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("scale", torch.ones(dim))
        self.query = nn.Parameter(torch.zeros(heads, dim // heads))
        self.key, self.value = _uninitialised(dim, dim), _uninitialised(dim, dim)
        self.classify = _uninitialised(dim, classes)
        random = generator_of(seed, "attentive probe")
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.normal_(0, dim**-0.5, generator=random)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits (N, K)."""
        x = (tokens - self.mean) / self.scale
        key, value = (f(x).unflatten(2, (self.heads, -1)) for f in (self.key, self.value))
        scores = torch.einsum("nthd,hd->nth", key, self.query) * key.shape[-1] ** -0.5
        gathered = torch.einsum("nth,nthd->nhd", scores.softmax(dim=1), value)
        logits: Tensor = self.classify(gathered.flatten(1))
        return logits

    @torch.no_grad()
    def predict(self, tokens: Tensor) -> Tensor:
        """The likeliest class (N,) of tokens (N, T, D)."""
        return torch.cat([self(part).argmax(dim=1) for part in torch.split(tokens, CHUNK)])


def _uninitialised(inputs: int, outputs: int) -> nn.Linear:
    """A linear layer without the default's draws from the global stream."""
    return nn.utils.skip_init(nn.Linear, inputs, outputs)  # type: ignore[no-untyped-call, no-any-return]


def fit_attentive(
    tokens: Tensor,  # (N, T, D)
    labels: Tensor,  # (N,)
    classes: int,
    *,
    heads: int = HEADS,
    steps: int = STEPS,
    seed: int = 0,
    weights: Tensor | None = None,  # (K,), of each class in the loss
) -> AttentiveHead:
    """A head fitted by AdamW with a cosine to zero, on batches drawn without replacement.

    Features are standardised over images and tokens; a function of the seed and the data. Raises
    DataError on labels or features no probe can use.
    """
    require_tokens(tokens, labels, classes)
    head = AttentiveHead(tokens.shape[2], classes, heads, seed).to(tokens.device)
    head.mean = tokens.mean(dim=(0, 1))
    scale = tokens.std(dim=(0, 1), correction=0)
    # A dimension that never changes says nothing: it must not be blown up by its rounding.
    head.scale = torch.where(scale > 1e-6 * (1 + head.mean.abs()), scale, torch.inf)
    optimizer = torch.optim.AdamW(head.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    random = generator_of(seed, "attentive batches")
    order = torch.empty(0, dtype=torch.int64)
    with torch.enable_grad():
        for _ in range(steps):
            if not len(order):
                order = torch.randperm(len(tokens), generator=random)
            chosen, order = order[:BATCH].to(tokens.device), order[BATCH:]
            loss = F.cross_entropy(head(tokens[chosen]), labels[chosen], weights)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    return head.eval()


def attentive_probe(
    train_x: Tensor,
    train_y: Tensor,
    test_x: Tensor,
    test_y: Tensor,
    classes: int,
    *,
    heads: int = HEADS,
    steps: int = STEPS,
    seed: int = 0,
) -> tuple[float, AttentiveHead]:
    """Test accuracy in percent of an attentive head on tokens (N, T, D), and the head itself."""
    require_tokens(test_x, test_y, classes)
    head = fit_attentive(train_x, train_y, classes, heads=heads, steps=steps, seed=seed)
    return accuracy(head.predict(test_x), test_y), head


def require_tokens(tokens: Tensor, labels: Tensor, classes: int) -> None:
    """Raise DataError unless tokens (N, T, D) are finite and have N labels below `classes`."""
    if tokens.ndim != 3:
        raise DataError(f"tokens of shape {tuple(tokens.shape)}", "give (N, T, D), not flattened")
    require_labelled(tokens, labels, classes)
