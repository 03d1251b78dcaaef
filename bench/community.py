"""A language community for studies: its labelled texts, and what it can build on.

Four regions of the world federate a byte-level model of the declaration of human rights; twelve
African languages are held out of all training, and are the community's (`examples/
sovereign_language`). It has `shots` labelled articles a language and is asked about pieces of later
ones. *Solo* is the model of the African member alone, of as many steps.

    begun = start_of(seed, "consensus")  # or "solo", "scratch": trained and kept, 4 core-minutes
    ours = given(seed, shots=10)         # .data, .test, and .unlabelled
"""

from __future__ import annotations

import functools
from pathlib import Path

from bench.text_languages import read_regions
from examples.sovereign import CACHE, Run, require_data, taken, trained
from examples.sovereign_language import (
    COMMUNITY,
    HOW,
    Regions,
    draw_languages,
    members_texts,
    own_texts,
)
from gobelin.client.sovereign import Given
from gobelin.client.sovereign.consensus import Consensus, untrained
from gobelin.shared.recipe import load_recipe

ROUNDS, LOCAL_STEPS = 12, 50
RECIPE = "text_tiny"


def start_of(seed: int, name: str) -> Consensus:
    """What a build starts from: the consensus, one member's own model, or random weights."""
    recipe = load_recipe(RECIPE)
    if name == "scratch":
        return untrained(recipe, seed)
    members = members_texts(recipe, *languages(seed))
    rounds, steps = ROUNDS, LOCAL_STEPS
    if name == "solo":
        members, rounds, steps = {COMMUNITY: members[COMMUNITY]}, 1, ROUNDS * LOCAL_STEPS
    folder = CACHE / "community" / f"seed-{seed}" / name
    return taken(trained(folder, recipe, members, rounds, steps, seed))


def given(seed: int, shots: int) -> Given:
    """The community's labelled texts, those it is judged by, and its unlabelled ones."""
    return Given(*own_texts(load_recipe(RECIPE), *languages(seed), shots))


@functools.lru_cache(maxsize=4)
def languages(seed: int) -> tuple[Regions, tuple[str, ...]]:
    """All texts by region of the world, and the community's languages."""
    regions = read_regions(require_data(CACHE / "udhr", HOW))
    return regions, draw_languages(regions, Run(seed, Path(), first=False, fast=False))[0]
