"""Whom an audit is of: a node's data, the recipe it trains and the base it starts from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gobelin.client.home import NodeHome
from gobelin.client.node_seed import node_seed
from gobelin.client.plan import parse_recipe
from gobelin.protocols.messages import MalformedMessageError, RoundPlan
from gobelin.shared.checkpoint import read_checkpoint
from gobelin.shared.data import OnBad, Source
from gobelin.shared.errors import ConfigError
from gobelin.shared.recipe import Recipe, load_recipe
from gobelin.shared.vector import ParameterVector


@dataclass(frozen=True)
class Subject:
    """What is audited."""

    recipe: Recipe
    modality: str | None
    source: Source[Any]
    base: ParameterVector | None  # None: the recipe's initial weights
    node_seed: int | None  # as the node derives it from its last plan; None without one


def open_subject(
    home: Path | None,
    data: Path | None,
    recipe: str | None,
    checkpoint: Path | None,
    modality: str | None,
) -> Subject:
    """Open all of it; raises ConfigError on what does not go together, and as its parts do."""
    if recipe is not None and checkpoint is not None:
        raise ConfigError("a checkpoint has a recipe of its own", "leave out --recipe")
    plan: RoundPlan | None = None
    given = data is not None
    on_bad: OnBad = "refuse"
    seed: int | None = None
    if home is not None:
        node = NodeHome(home)
        settings = node.settings()
        data, on_bad = settings.data.path, settings.data.on_bad
        modality = modality or settings.data.modality
        if node.plan_file.exists():
            plan = _plan(node.plan_file)
        if settings.privacy is not None:
            raise ConfigError(
                "this node trains with differential privacy, and what it sends is not audited yet",
                "`gobelin node egress` tells its ε; to audit the same data without, use --data",
            )
        seed = node_seed(node, plan) if plan else None
    if data is None or (home is not None and given):
        raise ConfigError("an audit is of one node's data", "name either --home or --data")
    found, base = _model(plan, recipe, checkpoint)
    source = found.modality(modality).open(data, on_bad=on_bad)
    return Subject(found, modality, source, base, seed)


def _plan(path: Path) -> RoundPlan:
    try:
        return RoundPlan.from_bytes(path.read_bytes())
    except (MalformedMessageError, OSError) as error:
        raise ConfigError(f"{path} holds no round plan: {error}", "name --data, --recipe") from None


def _model(
    plan: RoundPlan | None, recipe: str | None, checkpoint: Path | None
) -> tuple[Recipe, ParameterVector | None]:
    if checkpoint is not None:
        kept = read_checkpoint(checkpoint)
        return kept.recipe, kept.vector
    if recipe is not None:
        return load_recipe(recipe), None
    if plan is None:
        raise ConfigError("no plan says which recipe this node trains", "name one by --recipe")
    return parse_recipe(plan.recipe), None
