"""A language community's text model, for languages that no member of the federation has.

Real texts (the declaration of human rights in 531 languages). Four regions of the world federate a
byte-level model; twelve African languages are held out of all training. Their community has ten
articles a language with the language's name on them, and wants to know which of its languages a
text is in, down to pieces of 192 bytes of later articles.

    python -m examples.sovereign_language        # or: make sovereign-language

Data: .cache/udhr; without it the example says how to get them, once, with a network. Two minutes a
seed. Writes table.md, and the first seed's signed model with its report, under
runs/sovereign_language. *Solo* is a model of the community's own texts alone, of as many steps.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from bench.text_languages import (
    LATER,
    Section,
    as_windows,
    counted,
    read_regions,
)
from examples.sovereign import (
    BRIEF,
    CACHE,
    Place,
    Rows,
    Run,
    label_methods,
    require_data,
    run_example,
    taken,
    trained,
)
from gobelin.client.sovereign import Given
from gobelin.client.sovereign.assessment import Region
from gobelin.client.sovereign.report import EvaluationSettings
from gobelin.shared.data import MemorySource
from gobelin.shared.evaluation.benchmarks import Classification
from gobelin.shared.evaluation.probes import linear_probe
from gobelin.shared.recipe import Recipe, load_recipe
from gobelin.shared.seeds import derive_seed

COMMUNITY, LANGUAGES = "africa", 12
KNOWN = 10  # languages of every other region that the consensus's own benchmark tells apart
SHOTS = 10  # labelled articles a language
ROUNDS, LOCAL_STEPS = 6, 30
KEPT = "pre-train on own texts, linear head"
METHODS = label_methods(KEPT)
Regions = dict[str, list[Section]]  # of the world, by name
COLUMNS = ("accuracy", "over consensus", "over scratch", "over solo", "points lost")
HOW = "gobelin data prepare udhr --split-by region --out .cache/udhr"


def run(run: Run) -> Rows:
    """One seed: every method, n-grams that need no model, and what it is compared with."""
    recipe = small(load_recipe("text_tiny")) if run.fast else load_recipe("text_tiny")
    regions = read_regions(require_data(CACHE / "udhr", HOW))
    ours, known = draw_languages(regions, run)
    place = region_of(run, recipe, regions, ours, known)
    known_texts, unseen = counted(place.region.train), counted(place.region.test)
    right, _ = linear_probe(*known_texts, *unseen, len(ours))
    rows: Rows = {"byte n-grams, no model": {"accuracy": right}}
    return {**rows, **place.compare(run, run.shortened(METHODS), keep=KEPT)}


def draw_languages(regions: Regions, run: Run) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The community's languages, and those of the others that are told apart; each of one region,
    and all but complete."""
    drawn: dict[str, list[str]] = {}
    for name, sections in regions.items():
        elsewhere = {s.language for n, each in regions.items() if n != name for s in each}
        counts: dict[str, int] = {}
        for section in sections:
            counts[section.language] = counts.get(section.language, 0) + 1
        whole = sorted(x for x, count in counts.items() if count >= 30 and x not in elsewhere)
        order = np.random.default_rng(derive_seed(run.seed, "community", name))
        drawn[name] = [whole[i] for i in order.permutation(len(whole))]
    ours = drawn[COMMUNITY][: 4 if run.fast else LANGUAGES]
    others = sorted(name for name in drawn if name != COMMUNITY)
    return tuple(sorted(ours)), tuple(sorted(x for name in others for x in drawn[name][:KNOWN]))


def region_of(
    run: Run,
    recipe: Recipe,
    regions: Regions,
    ours: tuple[str, ...],
    known: tuple[str, ...],
) -> Place:
    """The community's texts, the consensus, and what the consensus was for."""
    train, test, texts = own_texts(recipe, regions, ours, SHOTS)
    general = [s for each in regions.values() for s in each if s.language in known]
    members = members_texts(recipe, regions, ours)
    folder = (run.out / "trained") if run.fast else CACHE / "examples" / "language"
    folder = folder / f"seed-{run.seed}"
    rounds, steps = (1, 2) if run.fast else (ROUNDS, LOCAL_STEPS)
    consensus = trained(folder / "consensus", recipe, members, rounds, steps, run.seed)
    alone = trained(folder / "solo", recipe, {"own": texts}, 1, rounds * steps, run.seed)
    return Place(
        COMMUNITY,
        taken(consensus),
        Given(train, test, unlabelled=texts),
        Region("which of our languages", train, test),
        settings_for(run, alone),
        [
            Classification(
                "languages of other regions",
                told_apart(recipe, [s for s in general if s.article < LATER], known, whole=False),
                told_apart(recipe, [s for s in general if s.article >= LATER], known, whole=False),
                len(known),
                seed=run.seed,
            )
        ],
    )


def own_texts(
    recipe: Recipe, regions: Regions, ours: tuple[str, ...], shots: int
) -> tuple[MemorySource, MemorySource, MemorySource]:
    """The first windows of articles 1 … `shots` of the community's languages and all windows of
    later articles, both labelled; and all windows of earlier articles, without labels."""
    own = [s for s in regions[COMMUNITY] if s.language in ours]
    few = [s for s in own if 0 < s.article <= shots]
    later = [s for s in own if s.article >= LATER]
    return (
        told_apart(recipe, few, ours, whole=False),
        told_apart(recipe, later, ours, whole=True),
        earlier(recipe, own),
    )


def members_texts(
    recipe: Recipe, regions: Regions, ours: tuple[str, ...]
) -> dict[str, MemorySource]:
    """What each region of the world trains on: its texts but for the community's languages."""
    return {
        name: earlier(recipe, [s for s in sections if s.language not in ours])
        for name, sections in regions.items()
    }


def earlier(recipe: Recipe, sections: list[Section]) -> MemorySource:
    """All windows of the articles that may be trained on."""
    seen = [s for s in sections if s.article < LATER]
    return MemorySource(as_windows(recipe, seen, whole=True))


def settings_for(run: Run, solo: Path) -> EvaluationSettings:
    """With a few corrupted texts."""
    shifted = {"shifted_samples": 10 if run.fast else 200, "severities": (3,)}
    return EvaluationSettings.model_validate({**BRIEF, "solo": solo, **shifted})


def told_apart(
    recipe: Recipe, sections: list[Section], names: tuple[str, ...], whole: bool
) -> MemorySource:
    """Windows of texts by language: all of each, or the first."""
    windows, labels = [], []
    for section in sections:
        cut = as_windows(recipe, [section], whole)
        windows.append(cut)
        labels += [names.index(section.language)] * len(cut)
    return MemorySource(torch.cat(windows), torch.tensor(labels), names)


def small(recipe: Recipe) -> Recipe:
    """The recipe at a size for tests."""
    trunk = recipe.trunk.model_copy(update={"dim": 16, "depth": 1, "heads": 2})
    return recipe.model_copy(update={"trunk": trunk})


if __name__ == "__main__":
    run_example("sovereign_language", __doc__.split("\n")[0], run, COLUMNS)
