"""A world model: an encoder of observations, and a predictor of what actions lead to."""

from __future__ import annotations

import torch
from torch import Tensor

from gobelin.shared.data.formats import TrajectoryFormat
from gobelin.shared.data.trajectories import Trajectories
from gobelin.shared.errors import ConfigError
from gobelin.shared.modality.trajectory import Trajectory
from gobelin.shared.model.encoder import Encoder
from gobelin.shared.model.predictor import Predictor


class WorldModel:
    """What planning and surprise ask of an encoder of trajectories; a planner's `Dynamics`.

    Raises ConfigError for an encoder of anything else.
    """

    def __init__(self, encoder: Encoder) -> None:
        if not isinstance(encoder.modality, Trajectory):
            kind = encoder.modality.recipe.kind
            raise ConfigError(f"a model of kind {kind!r} is no world model", "name a trajectory's")
        if not isinstance(encoder.predictor, Predictor):
            raise ConfigError("this model predicts nothing", 'train it with kind = "next_latent"')
        self.encoder = encoder.eval()
        self._modality, self._predictor = encoder.modality, encoder.predictor

    @property
    def modality(self) -> Trajectory:
        """Of the encoder."""
        return self._modality

    @property
    def form(self) -> TrajectoryFormat:
        """What is expected of an episode."""
        return self._modality.form

    @property
    def history(self) -> int:
        """Observations the predictor looks back on."""
        return self._predictor.history

    def encode(self, observations: Tensor) -> Tensor:
        """Latents (N, P) of raw observations (N, ...)."""
        return self._project(self._modality.observation.prepare(observations))

    def rollout(self, z0: Tensor, actions: Tensor) -> Tensor:
        """Latents (B, S, H, P) after each of the raw actions (B, S, H, A), from z0 (B, P)."""
        problems, samples = actions.shape[:2]
        starts = z0.unsqueeze(1).expand(problems, samples, -1).flatten(0, 1)
        conditions = self._modality.conditions(actions).flatten(0, 1)
        latents = self._predictor.rollout(starts, conditions)
        return latents.view(problems, samples, *latents.shape[1:])

    @torch.no_grad()
    def surprise(self, batch: Trajectories) -> Tensor:
        """Energy (B, T): squared error of what was foreseen one step ahead, low = plausible.

        Step t is foreseen from as many observations before it as the predictor looks back on.
        """
        self._modality.check(batch)
        flat = self._project(self._modality.prepare(batch))
        z = flat.view(len(batch), -1, flat.shape[1])
        conditions = self._modality.conditions(batch.actions)
        errors = []
        for t in range(batch.actions.shape[1]):
            first = max(0, t + 1 - self._predictor.history)
            foreseen = self._predictor(z[:, first : t + 1], conditions[:, first : t + 1])[:, -1]
            errors.append((foreseen - z[:, t + 1]).square().mean(dim=-1))
        return torch.stack(errors, dim=1)

    def _project(self, prepared: Tensor) -> Tensor:
        projections: Tensor = self.encoder(prepared)
        return projections.float()
