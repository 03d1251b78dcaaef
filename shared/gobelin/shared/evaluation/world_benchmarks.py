"""A benchmark of world models: what they foresee of recorded episodes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from gobelin.shared.data.episodes import EpisodeSource
from gobelin.shared.errors import DataError
from gobelin.shared.evaluation.benchmarks import Contender, Measured
from gobelin.shared.evaluation.foresight import fit_readout, with_ones
from gobelin.shared.evaluation.intervals import Skill
from gobelin.shared.model.world_model import WorldModel

HORIZON = 10
EPISODES = 400  # at most, of each kind
ALL = slice(None)
CHUNK = 64  # episodes encoded at once


@dataclass(frozen=True, eq=False)
class Foreseeing:
    """How much of what happens within `horizon` steps a model foresees from one observation.

    The states it foresees are read out of its latents by ridge regression on the episodes of `fit`:
    the recorded `states`, else the observations where those are vectors. Pictures without states
    leave the model's own latents, and a model that sees little can then foresee all of it. Where
    `fit` and `test` are one source, every other episode is for the one.
    """

    name: str
    fit: EpisodeSource  # opened with `surprise.open_episodes`: whole episodes
    test: EpisodeSource
    horizon: int = HORIZON
    episodes: int = EPISODES
    device: str = "cpu"
    kind: ClassVar[str] = "foresight"
    units: ClassVar[str] = "episodes"

    def measure(self, contender: Contender) -> Measured:
        """Skill against saying that nothing moves, and the errors in the states' own units.

        Raises ConfigError for what is no world model, DataError where no episode is long enough.
        """
        model = WorldModel(contender.encoder)
        halves = self.fit is self.test
        z, truth, actions = self._seen(model, self.test, slice(1, None, 2) if halves else ALL)
        readout = None
        if truth is not None:
            known, states, _ = self._seen(model, self.fit, slice(0, None, 2) if halves else ALL)
            assert states is not None
            readout = fit_readout(known, states)
        with torch.no_grad():
            start, deeds = z[:, 0].to(self.device), actions[:, None].to(self.device)
            imagined = model.rollout(start, deeds)[:, 0, -1].cpu()
        if readout is None or truth is None:
            wrong = (imagined - z[:, -1]).norm(dim=1)
            moved = (z[:, 0] - z[:, -1]).norm(dim=1)
        else:
            low, high = truth.amin(dim=(0, 1)), truth.amax(dim=(0, 1))
            said = (with_ones(imagined) @ readout).clamp(low, high)
            wrong = (said - truth[:, -1]).norm(dim=1)
            moved = (truth[:, 0] - truth[:, -1]).norm(dim=1)
        skill = Skill(wrong.double().numpy(), moved.double().numpy())
        facts = {
            "horizon": actions.shape[1],
            "error": float(wrong.mean()),
            "still": float(moved.mean()),
            "read_out": "latents" if readout is None else "states",
        }
        return Measured({"foresight": skill}, facts=facts)

    def _seen(
        self, model: WorldModel, source: EpisodeSource, which: slice
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """Latents (E, H + 1, P), what is to be foreseen (E, H + 1, S), and actions (E, H, A), of
        the first steps of every episode that has so many: overlapping windows would be no
        independent units."""
        long = [i for i, e in enumerate(source.episodes) if e.steps >= self.horizon][which]
        if not long:
            what = f"no episode of {self.name} has {self.horizon} steps"
            raise DataError(what, "give longer episodes, or ask for a shorter horizon")
        parts = [source.part(i, 0, self.horizon) for i in long[: self.episodes]]
        seen = torch.cat([part.observations for part in parts])
        actions = torch.cat([part.actions for part in parts])
        z = torch.cat(
            [
                model.encode(part.flatten(0, 1).to(self.device)).cpu().view(*part.shape[:2], -1)
                for part in torch.split(seen, CHUNK)
            ]
        ).detach()
        found = [source.states(i, 0, self.horizon) for i in long[: self.episodes]]
        states = [s for s in found if s is not None]
        if len(states) == len(found):
            return z, torch.from_numpy(np.stack(states)), actions
        if model.form.image_size is None:
            return z, seen.double().flatten(2), actions
        return z, None, actions
