"""A world model over HTTP: /plan, /rollout, /surprise, /health and their OpenAPI document.

For agents on the same machine: there is no authentication (see `http_server`).
"""

from __future__ import annotations

import threading
from collections.abc import Collection
from typing import Any

import torch
from fastapi import FastAPI

from gobelin.shared.data.trajectories import Trajectories
from gobelin.shared.errors import ConfigError, DataError
from gobelin.shared.http_server import guarded_app
from gobelin.shared.worldmodel.answers import (
    foreseen_facts,
    one_plan,
    planned_facts,
    surprise_facts,
)
from gobelin.shared.worldmodel.observation import actions_of
from gobelin.shared.worldmodel.oracle import Oracle
from gobelin.shared.worldmodel.requests import PlanRequest, RolloutRequest, SurpriseRequest

MAX_SEARCH = 2_000_000  # steps of the model that a plan may take to search
MAX_ROLLOUT = 65_536  # steps of all plans of a rollout
MAX_EPISODE = 4096  # steps whose plausibility is asked at once


def make_app(
    oracle: Oracle, about: dict[str, Any], max_bytes: int, hosts: Collection[str] | None
) -> FastAPI:
    """The interface; `about` is what /health says of the model.

    Bodies are at most `max_bytes`, and requests call the server by one of `hosts`; None: by any.
    """
    app = guarded_app("Gobelin world model", max_bytes, hosts)
    questions = Questions(oracle, about)
    app.get("/health")(questions.health)
    app.post("/plan", summary="Find me actions that lead from start to goal")(questions.plan)
    app.post("/rollout", summary="What happens if")(questions.rollout)
    app.post("/surprise", summary="How plausible is this")(questions.surprise)
    return app


class Questions:
    """What can be asked, one computation at a time: they share the cores."""

    def __init__(self, oracle: Oracle, about: dict[str, Any]) -> None:
        self.oracle, self.about, self.form = oracle, about, oracle.model.form
        self.turn = threading.Lock()

    def health(self) -> dict[str, Any]:
        """Which model answers, and what it sees and does."""
        return {"status": "ok", **self.about}

    def plan(self, asked: PlanRequest) -> dict[str, Any]:
        """Actions (H, A) and what they are foreseen to lead to; an error where none are allowed."""
        if asked.settings.steps_imagined > MAX_SEARCH:
            what = f"a search of {asked.settings.steps_imagined:,} steps"
            raise ConfigError(what, f"samples × iterations × horizon ≤ {MAX_SEARCH:,}")
        start, goal = asked.start.tensor(self.form), asked.goal.tensor(self.form)
        with self.turn:
            return planned_facts(self.oracle, self.oracle.plan(start, goal, asked.settings))

    def rollout(self, asked: RolloutRequest) -> dict[str, Any]:
        """How far plans lead from the start and to the goal, in latent space, at every step."""
        actions = actions_of(asked.actions, self.form)
        if actions.shape[0] * actions.shape[1] > MAX_ROLLOUT:
            raise DataError("too many steps at once", f"ask for at most {MAX_ROLLOUT:,}")
        goal = None if asked.goal is None else asked.goal.tensor(self.form)
        with self.turn:
            found = self.oracle.rollout(asked.start.tensor(self.form), actions, goal)
        facts = foreseen_facts(self.oracle, found)
        if asked.latents:
            facts["latents"] = found.latents.tolist()
        return one_plan(facts) if _depth(asked.actions) == 2 else facts

    def surprise(self, asked: SurpriseRequest) -> dict[str, Any]:
        """The energy of each step: low is plausible."""
        actions = actions_of(asked.actions, self.form)
        if len(actions) != 1 or actions.shape[1] + 1 != len(asked.observations):
            what = f"{len(asked.observations)} observations with actions {tuple(actions.shape)}"
            raise DataError(what, "give T actions (T, A) for T + 1 observations")
        if actions.shape[1] > MAX_EPISODE:
            raise DataError("too many steps at once", f"ask for at most {MAX_EPISODE:,}")
        seen = torch.stack([observation.tensor(self.form) for observation in asked.observations])
        with self.turn:
            return surprise_facts(self.oracle.surprise(Trajectories(seen[None], actions))[0])


def _depth(values: Any) -> int:
    return 1 + _depth(values[0]) if isinstance(values, list) and values else 0
