"""What a round plan carries, as far as a node believes it: recipe, schema, fragments, moments."""

from __future__ import annotations

import functools
import json

import torch
from pydantic import ValidationError

from gobelin.protocols.messages import RoundPlan
from gobelin.shared.errors import OTHER_VERSION, ConfigError, ContributionError, MomentsError
from gobelin.shared.fragments import fragments_of
from gobelin.shared.ledger.course import parse as parse_rollbacks
from gobelin.shared.model import Jepa
from gobelin.shared.objective.moments import digest_of
from gobelin.shared.objective.pools import Pools
from gobelin.shared.recipe import Recipe
from gobelin.shared.vector import ParameterSchema


def parse_recipe(text: str) -> Recipe:
    """The recipe inside a plan; raises ContributionError when it is none."""
    try:
        return Recipe.model_validate(json.loads(text))
    except (ValueError, ValidationError, RecursionError):
        raise ContributionError("the plan's recipe is not valid", OTHER_VERSION) from None


def rollbacks_of_plan(plan: RoundPlan) -> dict[int, int]:
    """The rollbacks behind a plan's base; raises ContributionError when they are none."""
    try:
        found = parse_rollbacks(plan.rollbacks)
    except ValueError:
        raise ContributionError("the plan's rollbacks are none", OTHER_VERSION) from None
    if max(found, default=0) >= plan.round:
        raise ContributionError("the plan tells of a rollback that is still to come")
    return found


def pooled_moments(plan: RoundPlan, data: bytes) -> Pools | None:
    """The pools a plan names, None where it names none; raises ContributionError on others."""
    if digest_of(data) != plan.moments_digest:
        raise ContributionError("the moments are not the ones the plan names")
    recipe = parse_recipe(plan.recipe)
    try:
        dim, told = recipe.projector.out, recipe.told_modalities
        return Pools.from_bytes(data, dim, told) if data else None
    except MomentsError as error:
        raise ContributionError(f"the plan's moments are none: {error.what}") from None


@functools.lru_cache(maxsize=4)
def schema_of(recipe: Recipe) -> ParameterSchema:
    """The schema a recipe builds, without allocating its tensors."""
    with torch.device("meta"):
        return ParameterSchema.of(Jepa(recipe))


def check_fragments(plan: RoundPlan, schema: ParameterSchema) -> None:
    """Raise ContributionError unless the plan cuts the model as it can be cut."""
    if not 0 < plan.alpha <= 1:
        raise ContributionError(f"a share of {plan.alpha} is none")
    try:
        fragments_of(schema, plan.fragments)
    except ConfigError as error:
        raise ContributionError(error.what) from None
