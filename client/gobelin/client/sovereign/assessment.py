"""What a sovereign model is measured on and against, put together from what the operator has."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gobelin.client.sovereign.consensus import Consensus
from gobelin.client.sovereign.package import SovereignModel
from gobelin.client.sovereign.report import (
    SOVEREIGN,
    EvaluationSettings,
    Report,
    evaluate_build,
)
from gobelin.shared.checkpoint import read_checkpoint
from gobelin.shared.data import Source, Subset
from gobelin.shared.data.episodes import EpisodeSource
from gobelin.shared.data.partition import hold_out
from gobelin.shared.errors import ConfigError, DataError, SchemaMismatchError
from gobelin.shared.evaluation.benchmarks import Anomaly, Benchmark, Classification, Contender
from gobelin.shared.evaluation.embed import require_labels
from gobelin.shared.evaluation.evaluate import count_classes
from gobelin.shared.evaluation.surprise import open_episodes
from gobelin.shared.evaluation.world_benchmarks import Foreseeing
from gobelin.shared.model import encoder_of
from gobelin.shared.model.world_model import WorldModel
from gobelin.shared.recipe import Recipe
from gobelin.shared.vector import ParameterVector

HELD = 0.25  # share of a general benchmark's samples that its probe is tested on
COMPARED = 20_000  # samples of each set looked through for copies

# The same build from the release (`sovereign`) or random weights (`scratch`), on training samples
# at some indices, or on all of them.
Again = Callable[[str, np.ndarray[Any, np.dtype[np.int64]] | None], SovereignModel]


@dataclass(frozen=True, eq=False)
class Region:
    """The region's data as a sovereign model's modality reads them.

    `train` is what the build was made on, `test` what nothing was fitted on; of world models both
    are whole episodes (`open_region`).
    """

    name: str
    train: Source[Any]
    test: Source[Any]


def open_region(model: SovereignModel, name: str, data: Path, test: Path) -> Region:
    """A region's data for a model of its; raises DataError and ConfigError."""
    if _is_world(model.recipe, model.modality):
        world = WorldModel(model.encoder)
        return Region(name, open_episodes(world, data), open_episodes(world, test))
    kind = model.recipe.modality(model.modality)
    return Region(name, kind.open(data), kind.open(test))


def assess(
    model: SovereignModel,
    consensus: Consensus | None,
    region: Region,
    settings: EvaluationSettings,
    *,
    again: Again | None = None,
    also: Mapping[str, SovereignModel] | None = None,
    general: Sequence[Benchmark] = (),
    facts: Mapping[str, str] | None = None,
) -> Report:
    """The report of a model: against the consensus, the same from scratch, and the solo model.

    `again` builds anew, for the row from scratch and the few-shot curve: without it there are none.
    `also` are further models by role, such as the build that was rebased, and `general` further
    benchmarks of the consensus beside those the settings name. Raises DataError on data
    the task is not of, ConfigError on a solo model of other data, SchemaMismatchError where the
    consensus is of another schema.
    """
    device = model.device
    if consensus is not None and consensus.vector.schema.digest != model.vector.schema.digest:
        what = "the release has other parameters than the sovereign model"
        raise SchemaMismatchError(what, "give the release it was built on, or a later one of it")
    contenders = {SOVEREIGN: contender_of(SOVEREIGN, model)}
    if consensus is not None:
        of = consensus.recipe, consensus.vector, model.modality, device
        contenders["consensus"] = frozen_of("consensus", *of)
    if again is not None and settings.scratch:
        contenders["scratch"] = contender_of("scratch", again("scratch", None))
    if settings.solo is not None:
        solo = read_checkpoint(settings.solo)
        _same_samples(model, solo.recipe, settings.solo)
        of = solo.recipe, solo.vector, model.modality, device
        contenders["solo"] = frozen_of("solo", *of)
    contenders |= {role: contender_of(role, other) for role, other in (also or {}).items()}
    task = task_of(model, region, settings)
    rebuild = None
    if again is not None:

        def rebuild(role: str, chosen: np.ndarray[Any, Any]) -> Contender:
            return contender_of(role, again(role, chosen))

    return evaluate_build(
        task,
        contenders,
        general=[*(general_of(model, path, settings) for path in settings.general), *general],
        rebuild=rebuild,
        settings=settings,
        facts={**facts_of(model), **(facts or {})},
        notes=_notes(region),
    )


def contender_of(role: str, model: SovereignModel) -> Contender:
    """A sovereign model with its own head, which says probabilities as `predict` does."""
    if model.head is None:
        return Contender(role, model.encoder)
    head, temperature = model.head.to(model.device), model.temperature

    def read(tokens: Tensor) -> Tensor:
        return head.logits(tokens) / temperature

    return Contender(role, model.encoder, read)


def frozen_of(
    role: str, recipe: Recipe, vector: ParameterVector, modality: str | None, device: str
) -> Contender:
    """A model that gets a probe."""
    return Contender(role, encoder_of(recipe, vector, modality).to(device).eval())


def task_of(model: SovereignModel, region: Region, settings: EvaluationSettings) -> Benchmark:
    """What the region asks of it, by its data: to foresee, to find anomalies, or to classify."""
    common: dict[str, Any] = {"seed": settings.seed, "device": model.device}
    if _is_world(model.recipe, model.modality):
        return _foreseeing(region.name, region.train, region.test, settings, model.device)
    common |= {"labels": settings.labels, "samples": settings.samples}
    if settings.anomalous:
        odd = _numbers(region.test, settings.anomalous)
        return Anomaly(region.name, region.train, region.test, odd, **common)
    require_labels(region.test)
    train, test = (under_names(each, model.class_names) for each in (region.train, region.test))
    classes = model.head.classes if model.head is not None else count_classes(train)
    return Classification(region.name, train, test, classes, **common)


def general_of(model: SovereignModel, path: Path, settings: EvaluationSettings) -> Benchmark:
    """One benchmark of the consensus: a part of its samples fits probes, the rest tests them."""
    if _is_world(model.recipe, model.modality):
        episodes = open_episodes(WorldModel(model.encoder), path)
        return _foreseeing(path.name, episodes, episodes, settings, model.device)
    source: Source[Any] = model.recipe.modality(model.modality).open(path)
    kept, held = hold_out(np.arange(len(source)), HELD, settings.seed)
    return Classification(
        path.name,
        Subset(source, kept),
        Subset(source, held),
        count_classes(source),
        labels=settings.labels,
        samples=settings.samples,
        seed=settings.seed,
        device=model.device,
    )


def facts_of(model: SovereignModel) -> dict[str, str]:
    """How it was made, as a page shows it."""
    lineage, release = model.lineage, model.lineage.release
    checked = f"verified by {release.verified_by[:16]}…" if release.verified else "not verified"
    facts = {
        "region": lineage.region,
        "release": f"{release.vector_digest[:16]}…, {_round(release)}{checked}",
        "method": lineage.method,
        "steps": f"{lineage.steps:,}",
        "model": f"{model.vector.digest[:16]}…, {model.vector.schema.size:,} parameters",
    }
    for said in lineage.data:
        classes = f", {len(said.classes)} classes" if said.classes else ""
        facts[f"data: {said.name}"] = f"{said.samples:,} samples{classes}, {said.digest[:16]}…"
    if lineage.seeds:
        facts["seeds"] = ", ".join(f"{name} {seed}" for name, seed in lineage.seeds.items())
    return facts


def _round(release: Any) -> str:
    named = f"{release.federation} " if release.federation else ""
    return f"{named}round {release.round}, " if release.round else ""


def _foreseeing(
    name: str,
    fit: Source[Any],
    test: Source[Any],
    settings: EvaluationSettings,
    device: str,
) -> Foreseeing:
    if not isinstance(fit, EpisodeSource) or not isinstance(test, EpisodeSource):
        raise DataError(f"{name} has no whole episodes", "give .npz or HDF5 files")
    return Foreseeing(name, fit, test, settings.horizon, device=device)


def _is_world(recipe: Recipe, modality: str | None) -> bool:
    return recipe.modalities[recipe.pick(modality)].kind == "trajectory"


def _same_samples(model: SovereignModel, recipe: Recipe, where: Path) -> None:
    """Raise ConfigError unless a recipe reads the same samples."""
    wanted = model.recipe.modality(model.modality).form
    if model.modality is not None and model.modality not in recipe.modalities:
        raise ConfigError(f"{where} has no modality {model.modality!r}", "give a model that has")
    if recipe.modality(model.modality).form != wanted:
        raise ConfigError(f"{where} reads other samples", "give a solo model of the same samples")


def _numbers(source: Source[Any], names: Sequence[str]) -> tuple[int, ...]:
    """Labels of classes by name; by number where the source does not name them."""
    require_labels(source)
    known = source.class_names or tuple(str(k) for k in range(count_classes(source)))
    odd = [name for name in names if name not in known]
    if odd:
        what = f"the test samples have no class {odd[0]!r}"
        raise ConfigError(what, f"evaluation.anomalous names some of {', '.join(known[:12])}")
    return tuple(known.index(name) for name in names)


def under_names(source: Source[Any], names: tuple[str, ...]) -> Source[Any]:
    """The source under a model's labels; raises DataError on classes the model has not."""
    own = source.class_names
    if not names or own is None or own == names[: len(own)]:
        return source
    unknown = [name for name in own if name not in names]
    if unknown:
        what = f"the samples have a class {unknown[0]!r}, which the model has not"
        raise DataError(what, f"its classes are {', '.join(names[:12])}")
    part = Subset(source, np.arange(len(source)))
    part.labels = torch.tensor([names.index(name) for name in own])[require_labels(source)]
    part.class_names = names
    return part


def _notes(region: Region) -> list[str]:
    """What a reader should know before believing the figures."""
    notes = []
    copies = copies_of(region.train, region.test)
    if copies:
        notes.append(
            f"{copies:,} of the test samples are byte for byte among the training samples: "
            "the figures flatter every model."
        )
    return notes


def copies_of(train: Source[Any], test: Source[Any]) -> int:
    """How many of the first COMPARED test samples are also among the training samples."""
    if isinstance(train, EpisodeSource) or isinstance(test, EpisodeSource):
        return 0
    known = set(_digests(train))
    return sum(digest in known for digest in _digests(test))


def _digests(source: Source[Any]) -> list[int]:
    count = min(len(source), COMPARED)
    found = []
    for start in range(0, count, 1024):
        rows = np.arange(start, min(count, start + 1024))
        found += [hash(sample.numpy().tobytes()) for sample in source.read(rows)]
    return found


def with_report(
    model: SovereignModel, report: Report, files: Mapping[str, bytes]
) -> SovereignModel:
    """The model with its report, to be written and signed."""
    told = {**model.lineage.evaluation, "report": report.summary()}
    lineage = model.lineage.model_copy(update={"evaluation": told})
    return replace(model, lineage=lineage, files={**model.files, **files})
