"""Transplants: what heads fitted on the last release are worth on the one being published."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gobelin.server.home import FederationSettings, ReleaseSettings
from gobelin.shared.checkpoint import Checkpoint
from gobelin.shared.data import Source
from gobelin.shared.evaluation.evaluate import count_classes
from gobelin.shared.evaluation.transplant import measure_transplant
from gobelin.shared.frame import Frame
from gobelin.shared.model import hollow_jepa, lent, weights_of
from gobelin.shared.recipe import Recipe
from gobelin.shared.seeds import derive_seed
from gobelin.shared.vector import ParameterVector


def open_labelled(settings: ReleaseSettings, recipe: Recipe) -> Source:
    """The public labelled samples; raises ConfigError or DataError where there are none."""
    assert settings.probe is not None
    source: Source = recipe.modality(settings.modality).open(settings.probe)
    count_classes(source)  # refuses samples without labels
    return source


def transplant_of(
    settings: FederationSettings, old: Checkpoint, number: int, consensus: ParameterVector
) -> tuple[Mapping[str, Any], Frame]:
    """What is published beside round `number`'s consensus, and the frame to the release before.

    Needs the memory of one module's parameters beside the two vectors (see `model.lent`). Raises
    DataError where the probe is no longer what the federation was founded with.
    """
    told = settings.releases
    recipe = old.recipe
    before, after = hollow_jepa(recipe), hollow_jepa(recipe)
    with lent(before, weights_of(old.vector)), lent(after, weights_of(consensus)):
        found, frame = measure_transplant(
            before.encoder(told.modality),
            after.encoder(told.modality),
            open_labelled(told, recipe),
            samples=told.probe_samples,
            seed=derive_seed(settings.seed, "transplant"),
        )
    facts = {
        "from_round": old.facts["round"],
        "from_vector_digest": old.vector.digest,
        "to_round": number,
        "to_vector_digest": consensus.digest,
        "modality": recipe.pick(told.modality),
        **found.facts(),
    }
    return facts, frame
