"""The same build again: from random weights, or on a few of its samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gobelin.client.sovereign.assessment import Again
from gobelin.client.sovereign.consensus import Consensus, untrained
from gobelin.client.sovereign.package import SovereignModel
from gobelin.client.sovereign.settings import BuildSettings
from gobelin.shared.data import Subset
from gobelin.shared.errors import ConfigError
from gobelin.shared.evaluation.intervals import Indices
from gobelin.shared.settings import check_settings

if TYPE_CHECKING:
    from gobelin.client.sovereign.build import Given


def repeater(consensus: Consensus, given: Given, settings: BuildSettings) -> Again:
    """Builds as `settings` say, and writes nothing.

    From random weights any gain is taken: there is no release to keep. With few labels the rest of
    the data stay what they were to pre-train on: only labels are few.
    """
    from gobelin.client.sovereign.build import make_model  # late: a build reports by this module

    starts = {"sovereign": consensus, "scratch": untrained(consensus.recipe, settings.seed)}
    eager = settings.tuning.model_copy(update={"least_gain": 0.0})
    asked = {"sovereign": settings, "scratch": settings.model_copy(update={"tuning": eager})}
    pretrains = settings.pretrain.steps is not None

    def again(role: str, chosen: Indices | None) -> SovereignModel:
        some = given
        if chosen is not None:
            whole = given.unlabelled or (given.data if pretrains else None)
            some = replace(some, data=Subset(given.data, chosen), unlabelled=whole)
        return make_model(starts[role], some, asked[role])

    return again


def settings_of(model: SovereignModel, data: Path, device: str) -> BuildSettings:
    """What a package says it was built by, on data at another place.

    Raises ConfigError for a model that was not built, or on further data that are not here.
    """
    told: dict[str, Any] = {**model.build}
    pretrain: Mapping[str, Any] = told.get("pretrain", {})
    if "method" not in told:
        what = f"this model was made by {model.lineage.method!r}, not built"
        raise ConfigError(what, "leave out --again")
    if pretrain.get("data") or pretrain.get("rehearsal"):
        what = "this model was pre-trained on further data, which its package has not"
        raise ConfigError(what, "leave out --again")
    told["pretrain"] = {k: v for k, v in pretrain.items() if k not in ("data", "rehearsal")}
    told |= {"release": "-", "data": str(data), "out": "-", "compute": {"device": device}}
    return check_settings(BuildSettings, told, "the package's build settings")
