"""Terms: what a federation asks of a node every round, known from a plan or before joining."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gobelin.client.plan import parse_recipe, schema_of
from gobelin.protocols.messages import RoundPlan
from gobelin.shared.errors import OTHER_VERSION, ConfigError
from gobelin.shared.recipe import Recipe
from gobelin.shared.settings import parse_settings

UNKNOWN = "none"  # digests of a plan that nobody has made


@dataclass(frozen=True)
class Terms:
    """What every round asks; those of a plan that was offered, or as the aggregator tells them."""

    recipe: Recipe
    source: str  # who says so, for an operator
    rounds: int = 100
    local_steps: int = 500
    warmup_rounds: int = 0
    deadline_s: float = 3600.0
    codec: str = "fp32"
    broadcast: str = "fp32"
    cross_node: bool = False
    sealed: bool = False
    fragments: int = 1

    @classmethod
    def of_plan(cls, plan: RoundPlan) -> Terms:
        """Those of a plan; raises ContributionError where its recipe is none."""
        given = {name: getattr(plan, name) for name in NAMES}
        return cls(parse_recipe(plan.recipe), f"the plan of round {plan.round}", **given)

    @classmethod
    def of_answer(cls, recipe: bytes, terms: str) -> Terms:
        """Those an aggregator tells whoever holds an invite; raises ConfigError on others."""
        try:
            told = json.loads(terms)
            given = {name: told[name] for name in NAMES if told.get(name) is not None}
            known = parse_settings(Recipe, recipe.decode(), "the aggregator's recipe")
            made = cls(known, "the aggregator's answer", **given)
            _require(made)
        except (ValueError, TypeError, KeyError, AttributeError):
            raise ConfigError("the aggregator's terms are none", OTHER_VERSION) from None
        return made

    def plan(self) -> RoundPlan:
        """A plan as these terms would have it, to be judged; nobody has issued it."""
        return RoundPlan(
            federation=UNKNOWN,
            round=self.rounds,
            recipe=self.recipe.canonical(),
            schema_digest=schema_of(self.recipe).digest,
            base_digest=UNKNOWN,
            seed=0,
            **{name: getattr(self, name) for name in NAMES},
        )


NAMES = tuple(name for name in Terms.__dataclass_fields__ if name not in ("recipe", "source"))
KINDS: Mapping[str, Any] = {"int": int, "float": (int, float), "bool": bool, "str": str}


def _require(terms: Terms) -> None:
    """Raise ValueError unless every value is of its kind, and a count is one."""
    for name in NAMES:
        value, kind = getattr(terms, name), str(Terms.__dataclass_fields__[name].type)
        if not isinstance(value, KINDS[kind]) or (kind != "bool" and isinstance(value, bool)):
            raise ValueError(name)
        if kind in ("int", "float") and not 0 <= value < 1e9:
            raise ValueError(name)
