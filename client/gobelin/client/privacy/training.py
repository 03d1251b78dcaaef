"""Private training: a trainer whose batches are drawn, and whose gradients noised, as DP-SGD does.

Its steps' results may leave, for as much as is accounted for; losses, ranks and times of its
steps are of the data themselves, and are for this node's operator alone.
"""

from __future__ import annotations

from typing import Any

import torch

from gobelin.client.home import PrivacySettings
from gobelin.client.privacy.accounting import Spend
from gobelin.client.privacy.gradients import Mechanism, PrivateGradients
from gobelin.client.privacy.noise import Secret
from gobelin.client.privacy.sampling import PoissonStream
from gobelin.client.trainer import LocalSteps, LocalTrainer, StartedStep
from gobelin.shared.data import Batch, Source
from gobelin.shared.errors import ConfigError
from gobelin.shared.objective import Draw
from gobelin.shared.objective.per_example import require_per_example
from gobelin.shared.recipe import Recipe
from gobelin.shared.seeds import generator_of
from gobelin.shared.vector import ParameterVector


class PrivateTrainer(LocalTrainer):
    """Of one node's data under one secret.

    Batches, views and noise are functions of the secret and of where local steps start, so those
    that are done again end at the same bytes. The start is part of it, for steps of the same number
    from another base must have draws of their own.
    Raises PrivacyError where the recipe's objective couples samples, or on too few of them.
    """

    fewest = 0  # Poisson batches may be empty

    def __init__(
        self,
        recipe: Recipe,
        source: Source[Any],
        settings: PrivacySettings,
        secret: Secret,
        *args: Any,
        **options: Any,
    ) -> None:
        """`args` and `options` are LocalTrainer's, behind its batches."""
        self._source, self._secret = source, secret
        self._expected = settings.batch_size or recipe.inner.batch_size
        self._begin("")
        super().__init__(recipe, lambda step: self._stream.batch(step), *args, **options)
        if self.ranks is not None:
            raise ConfigError("private training is of one process", "start it without torchrun")
        objective = require_per_example(self.objective, recipe, options.get("modality"))
        mechanism = Mechanism(settings.clip_norm, settings.noise_multiplier, self._expected)
        self._gradients = PrivateGradients(self.encoder, objective, mechanism)

    def train(self, base: ParameterVector, local: LocalSteps, *args: Any, **options: Any) -> Any:
        """As LocalTrainer's; views are under the secret, too."""
        self._begin(base.digest)
        return super().train(base, local, *args, **options)

    def spend(self, steps: int) -> Spend:
        """What so many steps cost."""
        return Spend(self._gradients.mechanism.noise_multiplier, self._stream.probability, steps)

    def told_samples(self, steps: int) -> int:
        """Samples as they are told: how many were drawn is the data's affair."""
        return steps * min(self._expected, self.recipe.inner.batch_size)

    def _begin(self, start: str) -> None:
        self._of_start = self._secret.derive("local steps", start)
        self._stream = PoissonStream(self._source, self._expected, self._of_start)

    def _step(self, step: int, batch: Batch, local: LocalSteps) -> StartedStep:
        """Nothing here is decided by what the data are like, but the gradient."""
        samples, batch = len(batch), self._on_device(batch)
        self._set_rate(step, local)
        of_step = self._of_start.derive("step", step)
        draw = Draw(views=generator_of(of_step.seed("views")), slices=0)
        self.optimizer.zero_grad(set_to_none=True)
        with self._autocast():
            losses = self._gradients(batch, draw, of_step.derive("noise"))
        self.optimizer.step()
        self.objective.stepped(self.encoder)
        with torch.no_grad(), self._autocast():
            features = self.encoder.features(self.encoder.prepare(batch))
        finite = losses[losses.isfinite()]
        loss = finite.mean() if len(finite) else torch.zeros((), device=self.device)
        rest = torch.zeros(3, device=self.device)  # nobody looks at SIGReg, nor at a norm
        return StartedStep.of(step, samples, features, torch.cat([loss.expand(2), rest]))
