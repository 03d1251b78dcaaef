"""How to plan: a TOML file for `gobelin worldmodel plan`, and a part of what `serve` is asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, model_validator

from gobelin.shared.errors import ConfigError
from gobelin.shared.planning import (
    PLANNERS,
    ActionSpace,
    Constraint,
    KeepOut,
    KeepWithin,
    Planner,
    SpendAtMost,
)
from gobelin.shared.planning.guardrails import Readout
from gobelin.shared.settings import Positive, Settings

MAX_HORIZON = 512
NotNegative = Annotated[float, Field(ge=0)]
Numbers = tuple[float, ...]


class BoxTable(Settings):
    """A box of what the readout says, in its units."""

    low: Numbers  # corner of the box, one number a value of the readout
    high: Numbers  # the opposite corner
    margin: NotNegative = 0.0  # room for the model's error, in the readout's units

    @model_validator(mode="after")
    def _is_box(self) -> BoxTable:
        sizes = len(self.low) == len(self.high) > 0
        if not sizes or any(a >= b for a, b in zip(self.low, self.high, strict=True)):
            raise ValueError("low and high are as many numbers, each low below its high")
        return self


class KeepOutTable(BoxTable):
    """A box the plan stays out of."""

    between: Annotated[int, Field(ge=0, le=64)] = 3  # points watched from each step to the next


class PlanSettings(Settings):
    """What is searched, among which actions, with which planner."""

    # three that sample, and one that descends the gradient
    planner: Literal["cem", "icem", "mppi", "gradient"] = "cem"
    horizon: Annotated[int, Field(ge=1, le=MAX_HORIZON)] = 12  # steps that are planned
    # plans tried an iteration (starts of `gradient`); unset: the planner's own
    samples: Positive | None = None
    iterations: Positive | None = None  # rounds of the search; unset: the planner's own
    low: Numbers | None = None  # least of each action; unset: − the recipe's action_scale
    high: Numbers | None = None  # most of each action; unset: the recipe's action_scale
    max_change: Numbers | None = None  # of each action from one step to the next
    every_step: bool = True  # the cost is summed over steps, or that of the last step alone
    effort: NotNegative = 0.0  # weight of the mean squared action in the cost
    spend_at_most: NotNegative | None = None  # sum of absolute actions over the plan
    keep_out: tuple[KeepOutTable, ...] = ()
    keep_within: tuple[BoxTable, ...] = ()
    seed: int = 0  # of the candidates that are drawn

    @model_validator(mode="after")
    def _both_bounds(self) -> PlanSettings:
        if (self.low is None) != (self.high is None):
            raise ValueError("low and high go together")
        return self

    def make_planner(self) -> Planner:
        """The planner; raises PlanError for counts that make none."""
        kind = PLANNERS[self.planner]
        known = {field.name for field in fields(kind)}  # type: ignore[arg-type]
        chosen: dict[str, Any] = {}
        if self.samples is not None:
            chosen["starts" if "starts" in known else "samples"] = self.samples
            if "elites" in known:
                chosen["elites"] = min(kind().elites, self.samples)  # type: ignore[attr-defined]
        if self.iterations is not None:
            chosen["iterations"] = self.iterations
        return kind(**chosen)

    @property
    def steps_imagined(self) -> int:
        """About how many steps of the model the search takes."""
        planner = self.make_planner()
        counts = (getattr(planner, "samples", None), getattr(planner, "starts", None))
        samples: int = next(count for count in counts if count is not None)
        iterations: int = planner.iterations  # type: ignore[attr-defined]
        return samples * iterations * self.horizon

    def space(self, actions: int, scale: float) -> ActionSpace:
        """The action space of A actions; raises ConfigError and PlanError."""
        lows, highs = self.low or (-scale,) * actions, self.high or (scale,) * actions
        for name, bounds in (("low", lows), ("high", highs), ("max_change", self.max_change)):
            if bounds is not None and len(bounds) != actions:
                what = f"{name} has {len(bounds)} numbers, the model takes {actions} actions"
                raise ConfigError(what, "give one for each action")
        change = None if self.max_change is None else torch.tensor(self.max_change)
        return ActionSpace(torch.tensor(lows), torch.tensor(highs), change)

    def constraints(self, readout: Readout | None, values: int) -> list[Constraint]:
        """The guardrails, over what the readout says in so many values; raises ConfigError."""
        boxes: Sequence[BoxTable] = (*self.keep_out, *self.keep_within)
        made: list[Constraint] = []
        if self.spend_at_most is not None:
            made.append(SpendAtMost(self.spend_at_most))
        if not boxes:
            return made
        if readout is None:
            what = "keep_out and keep_within speak of states, and nothing reads these from latents"
            raise ConfigError(what, "give episodes with a `states` array by --readout")
        if any(len(box.low) != values for box in boxes):
            raise ConfigError(
                "a box has another number of values than a state", f"give it {values} of each"
            )
        for box in boxes:
            low, high = torch.tensor(box.low), torch.tensor(box.high)
            if isinstance(box, KeepOutTable):
                made.append(KeepOut(readout, low, high, box.margin, box.between))
            else:
                made.append(KeepWithin(readout, low, high, box.margin))
        return made


def parse_bounds(text: str, actions: int) -> dict[str, Numbers]:
    """`0.1` (± for each of A actions) or `-1:1,0:2` (each one's own); raises ConfigError."""
    try:
        if ":" not in text:
            bound = float(text)
            return {"low": (-bound,) * actions, "high": (bound,) * actions}
        pairs = [part.split(":") for part in text.split(",")]
        return {
            "low": tuple(float(low) for low, _ in pairs),
            "high": tuple(float(high) for _, high in pairs),
        }
    except ValueError:
        what = f"{text!r} are no bounds"
        raise ConfigError(what, "write 0.1, or low:high of each action: -1:1,0:2") from None
