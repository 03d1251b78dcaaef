"""What `gobelin worldmodel serve` is asked, as JSON."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator
from torch import Tensor

from gobelin.shared.data.formats import TrajectoryFormat
from gobelin.shared.settings import Settings
from gobelin.shared.worldmodel.observation import (
    decode_base64,
    decode_observation,
    observation_of,
)
from gobelin.shared.worldmodel.plan_settings import PlanSettings


class Observation(Settings):
    """One observation: its numbers as nested lists, or a PNG of the model's size in base64."""

    values: list[Any] | None = None
    png: str | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> Observation:
        if (self.values is None) == (self.png is None):
            raise ValueError("give either `values` or `png`")
        return self

    def tensor(self, form: TrajectoryFormat) -> Tensor:
        """As the model takes it; raises DataError."""
        if self.png is not None:
            return decode_observation(decode_base64(self.png), form)
        return observation_of(self.values, form)


class PlanRequest(Settings):
    """Find me actions that lead from `start` to `goal`."""

    start: Observation
    goal: Observation
    settings: PlanSettings = PlanSettings()


class RolloutRequest(Settings):
    """What happens if, from `start`, these actions (H, A) or plans (S, H, A) are taken?"""

    start: Observation
    actions: list[Any]
    goal: Observation | None = None
    latents: bool = False  # whether the latents themselves are wanted


class SurpriseRequest(Settings):
    """How plausible is it that these T actions led through these T + 1 observations?"""

    observations: list[Observation] = Field(min_length=2)
    actions: list[Any]  # (T, A)
