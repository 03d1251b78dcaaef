"""What of a sovereign model is exported: modules from raw samples to what is asked of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gobelin.client.sovereign.package import SovereignModel
from gobelin.shared.errors import ExportError
from gobelin.shared.modality.series import Series
from gobelin.shared.modality.trajectory import Trajectory
from gobelin.shared.model.predictor import Predictor
from gobelin.shared.seeds import generator_of

SAMPLES, LATENTS, ACTIONS = "samples", "latents", "actions"
FEATURES, PROBABILITIES, NEXT = "features", "probabilities", "next_latents"

Made = Callable[[int, int], tuple[Tensor, ...]]


@dataclass(frozen=True)
class Graph:
    """One module with what it takes and gives; its inputs' first dimension is the batch."""

    name: str
    module: nn.Module  # in evaluation mode; gives a tuple
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    made_up: Made  # inputs, of a batch size and a seed

    @torch.inference_mode()
    def run(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The outputs, as the model computes them."""
        found: tuple[Tensor, ...] = self.module(*inputs)
        return found


class Inference(nn.Module):
    """Raw samples (B, ...) → features (B, D); and probabilities (B, K), and latents (B, P) of what
    is planned in, where the model has them. Of trajectories, single observations."""

    def __init__(self, model: SovereignModel) -> None:
        super().__init__()
        self.encoder = model.encoder
        self.head, self.temperature = model.head, model.temperature
        seen = self.encoder.modality
        self.world = isinstance(seen, Trajectory)
        self._modality = seen.observation if isinstance(seen, Trajectory) else seen

    def forward(self, samples: Tensor) -> tuple[Tensor, ...]:
        """In the order of `outputs`."""
        prepared = self._modality.prepare(samples)
        tokens = self.encoder.tokens(prepared)
        found = [self.encoder.pool(tokens, prepared)]
        if self.head is not None:
            found.append((self.head.logits(tokens) / self.temperature).softmax(dim=1))
        if self.world:
            found.append(self.encoder.projector(found[0]))
        return tuple(found)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of what `forward` gives."""
        head = [PROBABILITIES] * (self.head is not None)
        return (FEATURES, *head, *[LATENTS] * self.world)

    def made_up(self, count: int, seed: int) -> tuple[Tensor, ...]:
        """Raw samples out of nothing; of series, every second value of a half of them missing."""
        random = generator_of(seed, "made-up samples")
        samples: Tensor = self._modality.made_up(count, random)
        if isinstance(self._modality, Series) and self._modality.recipe.missing:
            samples[count // 2 :, 1::2] = torch.nan
        return (samples,)


class Foreseeing(nn.Module):
    """Latents (B, T, P) and raw actions (B, T, A) → next latents (B, T, P), T being the history.

    Step t sees what came up to t: who has fewer steps puts zeros behind them, and reads as many.
    """

    def __init__(self, modality: Trajectory, predictor: Predictor) -> None:
        super().__init__()
        self.predictor, self._modality = predictor, modality

    def forward(self, latents: Tensor, actions: Tensor) -> tuple[Tensor]:
        """Step t sees latents and actions up to t."""
        return (self.predictor(latents, self._modality.conditions(actions)),)

    def made_up(self, count: int, seed: int) -> tuple[Tensor, ...]:
        """Gaussian latents, and actions of the recipe's scale."""
        random, recipe = generator_of(seed, "made-up latents"), self._modality.recipe
        steps, latent = self.predictor.history, self.predictor.read.in_features
        actions = torch.randn(count, steps, recipe.actions, generator=random)
        latents = torch.randn(count, steps, latent, generator=random)
        return latents, recipe.action_scale * actions


def graphs_of(model: SovereignModel) -> list[Graph]:
    """What is exported of a model: `model`, and of a world model `predictor`, too."""
    inference = Inference(model).eval()
    main = Graph("model", inference, (SAMPLES,), inference.outputs, inference.made_up)
    encoder = model.encoder
    if not isinstance(encoder.modality, Trajectory) or not isinstance(encoder.predictor, Predictor):
        return [main]
    foreseeing = Foreseeing(encoder.modality, encoder.predictor).eval()
    names = ((LATENTS, ACTIONS), (NEXT,))
    return [main, Graph("predictor", foreseeing, *names, foreseeing.made_up)]


def largest_difference(
    graph: Graph,
    other: Callable[[tuple[Tensor, ...]], tuple[Tensor, ...]],
    batches: tuple[int, ...] = (1, 2, 7),
    seeds: tuple[int, ...] = (0, 1, 2),
) -> float:
    """How far `other` is from a graph at most, over made-up inputs of several batch sizes.

    NaN counts as infinity.
    """
    worst = 0.0
    for batch in batches:
        for seed in seeds:
            inputs = graph.made_up(batch, seed)
            for mine, its in zip(graph.run(inputs), other(inputs), strict=True):
                apart = float((mine - its).abs().max()) if mine.shape == its.shape else torch.inf
                worst = max(worst, apart if apart == apart else torch.inf)
    return worst


def require_same(what: str, difference: float, most: float) -> None:
    """Raise ExportError unless two ways of computing a model are as good as one."""
    if not difference <= most:
        raise ExportError(
            f"{what} differs from the model by {difference:.2g}, at most {most:g} is allowed",
            "nothing was written; tell Gobelin's makers, with the recipe",
        )
