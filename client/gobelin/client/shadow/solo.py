"""The solo model: what this node would have without the federation, and the state to go on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from gobelin.client.trainer import ADDED, LocalSteps, LocalTrainer, StepReport
from gobelin.protocols.messages import RoundPlan
from gobelin.shared.checkpoint import MANIFEST, read_checkpoint, write_checkpoint
from gobelin.shared.errors import CheckpointError, ShadowError, VectorError
from gobelin.shared.recipe import Recipe
from gobelin.shared.schedule import Schedule
from gobelin.shared.vector import ParameterVector


@dataclass(frozen=True)
class Solo:
    """A solo model after `steps` of the federation's schedule, from `from_round` on."""

    vector: ParameterVector
    inner: Mapping[str, Tensor]  # the inner optimizer's state; empty before the first step
    from_round: int
    steps: int = 0
    samples: int = 0

    def go_on(
        self,
        trainer: LocalTrainer,
        plan: RoundPlan,
        node_seed: int,
        seconds: float,
        on_step: Callable[[StepReport], None],
        until: Callable[[], bool],
    ) -> Solo:
        """Trained on, to the end of a round's worth of steps or `seconds` or `until`, by a step
        at least: the next steps of the same schedule, in the same order of the same samples.

        Nothing of other nodes comes in: no pooled moments, no fragments. Raises what
        `LocalTrainer.train` does.
        """
        schedule = Schedule.of(plan)
        first = schedule.first_step(self.from_round) + self.steps
        local = LocalSteps(
            first_step=first,
            steps=plan.local_steps - self.steps % plan.local_steps,
            total_steps=schedule.total_steps,
            seed=plan.seed,
            node_seed=node_seed,
            seconds=seconds,
        )
        trainer.load_state(self.inner or _fresh(trainer))
        vector, report = trainer.train(self.vector, local, on_step, until)
        steps, samples = self.steps + report.steps, self.samples + report.samples
        return Solo(vector, trainer.state(), self.from_round, steps, samples)

    def write(self, folder: Path, recipe: Recipe) -> None:
        """Keep it, whole or not at all."""
        facts = {"from_round": self.from_round, "steps": self.steps, "samples": self.samples}
        extra = {"inner": self.inner} if self.inner else {}
        write_checkpoint(folder, recipe, self.vector, facts, extra)


def read_solo(folder: Path, recipe: Recipe) -> Solo | None:
    """What was written; None where nothing was. Raises ShadowError on damage."""
    if not (folder / MANIFEST).is_file():
        return None
    try:
        kept = read_checkpoint(folder)
        if kept.recipe.digest != recipe.digest:
            raise CheckpointError("it is of another recipe", "begin a new one")
        told = {name: int(kept.facts[name]) for name in ("from_round", "steps", "samples")}
    except (CheckpointError, VectorError, KeyError, TypeError, ValueError) as error:
        raise ShadowError(
            f"the solo model cannot be read: {error!s:.200}",
            f"remove {folder.parent}; a new one is begun from the consensus of then",
        ) from None
    return Solo(kept.vector, kept.extra.get("inner", {}), **told)


def _fresh(trainer: LocalTrainer) -> dict[str, Tensor]:
    """An inner optimizer's state before its first step.

    What an objective trains beside the model, and keeps here, is as it is.
    """
    state = trainer.state()
    mine = f"{ADDED}."
    return {n: t if n.startswith(mine) else torch.zeros_like(t) for n, t in state.items()}
