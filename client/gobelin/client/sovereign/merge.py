"""The merge: one model of the builds of several regions on the same release."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from gobelin.client.sovereign.consensus import Consensus
from gobelin.client.sovereign.head import Head, LinearHead, PooledHead
from gobelin.client.sovereign.lineage import DataStatement, Lineage, Parent
from gobelin.client.sovereign.merging import Method, shares
from gobelin.client.sovereign.package import SovereignModel
from gobelin.shared.errors import MergeError
from gobelin.shared.vector import ParameterVector

JOINED, NONE = "joined", "none"


def merge_models(
    models: Sequence[SovereignModel],
    release: ParameterVector,
    method: Method,
    *,
    region: str,
    weights: Sequence[float] | None = None,
    head: str | SovereignModel | None = None,
    licence: str | None = None,
) -> SovereignModel:
    """The model that `method` makes of builds on `release`, not written yet; no data are needed.

    In whichever order the builds are given it is the same model. `head`: joined, none, or the build
    whose head is kept; to be said where there is any, for which is right no merge can tell without
    data. Raises MergeError on fewer than two builds, on builds of several releases, recipes,
    modalities or licences, and on heads that do not join; ConfigError on weights.
    """
    require_mergeable(models)
    if release.digest != models[0].lineage.release.vector_digest:
        found, wanted = release.digest[:16], models[0].lineage.release.vector_digest[:16]
        raise MergeError(
            f"release {found}… is not the builds' own, {wanted}…", "name the folder of that one"
        )
    given = shares(weights, len(models))
    pairs = sorted(zip(models, given, strict=True), key=lambda pair: pair[0].digest)
    models, given = [model for model, _ in pairs], [share for _, share in pairs]
    names, kept, temperature = _head(models, given, head)
    delta = method.merge([(model.vector - release).values for model in models], given)
    vector = release + ParameterVector(release.schema, delta)
    first = models[0]
    how = {"name": method.name, "weights": given, **_settings(method)}
    how["head"] = head.digest if isinstance(head, SovereignModel) else head or NONE
    lineage = Lineage(
        region=region,
        release=first.lineage.release,
        data=_data(models),
        method="merge",
        seeds={"merge": int(getattr(method, "seed", 0))},
        parents=tuple(
            Parent(kind="package", digest=model.digest, name=model.lineage.region)
            for model in models
        ),
        evaluation={"merge": how},
        licence=licence or _licence(models),
    )
    return SovereignModel(
        recipe=first.recipe,
        vector=vector,
        lineage=lineage,
        modality=first.modality,
        head=kept,
        class_names=names,
        temperature=temperature,
        build={"merge": how},
        device=first.device,
    )


def require_mergeable(models: Sequence[SovereignModel]) -> None:
    """Raise MergeError unless builds are of one release, recipe and modality, and two at least."""
    if len(models) < 2:
        raise MergeError(f"{len(models)} package is not enough to merge", "name two or more")
    if len({model.digest for model in models}) < len(models):
        raise MergeError("the same package is named twice", "give it more weight instead")
    first = models[0]
    for model in models[1:]:
        mine, its = (m.lineage.release for m in (first, model))
        if mine.vector_digest != its.vector_digest:
            raise MergeError(
                f"the build of {first.lineage.region} is on release {mine.vector_digest[:16]}… "
                f"(round {mine.round}), that of {model.lineage.region} on "
                f"{its.vector_digest[:16]}… (round {its.round})",
                "take one over to the other's with `gobelin sovereign rebase --onto` first",
            )
        if (first.recipe.digest, first.modality) != (model.recipe.digest, model.modality):
            what = f"the builds of {first.lineage.region} and {model.lineage.region}"
            raise MergeError(f"{what} are of other recipes or modalities", "merge those of one")


def consensus_of(model: SovereignModel, release: ParameterVector) -> Consensus:
    """The release that a build is on, as its lineage has it."""
    return Consensus(model.recipe, release, model.lineage.release)


def join_heads(models: Sequence[SovereignModel], weights: Sequence[float]) -> tuple[Any, Head]:
    """Class names and one head: a class's row is the mean of those of the heads that know it.

    So heads of the same classes are averaged, and heads of different classes put side by side. Each
    head's temperature goes into its rows. Raises MergeError on heads that have no rows to join.
    """
    heads = [model.head for model in models]
    first = heads[0]
    if not isinstance(first, LinearHead | PooledHead):
        kind = "missing" if first is None else first.kind
        raise MergeError(f"heads that are {kind} do not join", "say --head none, or whose to keep")
    names: list[str] = list(dict.fromkeys(n for model in models for n in model.class_names))
    rows = torch.zeros(len(names), first.linear.in_features + 1, dtype=torch.float64)
    voices = torch.zeros(len(names), 1, dtype=torch.float64)
    for model, weight, head in zip(models, weights, heads, strict=True):
        if type(head) is not type(first) or _reads(head) != _reads(first):
            mine, its = first.kind, "none" if head is None else head.kind
            remedy = "say --head none, or whose to keep"
            raise MergeError(f"a {mine} head and {its} of another build do not join", remedy)
        assert isinstance(head, LinearHead | PooledHead)
        at = torch.tensor([names.index(name) for name in model.class_names])
        own = torch.cat([head.linear.weight, head.linear.bias[:, None]], dim=1).detach().cpu()
        rows[at] += weight * own.double() / model.temperature
        voices[at] += weight
    joined = type(first)(**{**first.form(), "classes": len(names)})
    rows = (rows / voices).float()
    joined.load_state_dict({"linear.weight": rows[:, :-1], "linear.bias": rows[:, -1]})
    return tuple(names), joined.eval().requires_grad_(False)


def _head(
    models: Sequence[SovereignModel], weights: Sequence[float], wanted: str | SovereignModel | None
) -> tuple[tuple[str, ...], Head | None, float]:
    """Class names, head and temperature of the merged model."""
    if isinstance(wanted, SovereignModel):
        return wanted.class_names, wanted.head, wanted.temperature
    if wanted == NONE or all(model.head is None for model in models):
        return (), None, 1.0
    if wanted is None:
        raise MergeError(
            "the builds have heads, and nobody said which is to read the merged model",
            "say --head PACKAGE to keep that region's; --head joined, their mean, reads nothing "
            "where regions see the world differently (another scanner); or --head none",
        )
    names, head = join_heads(models, weights)
    return names, head, 1.0


def _reads(head: Head | None) -> dict[str, int]:
    return {} if head is None else {k: v for k, v in head.form().items() if k != "classes"}


def _data(models: Sequence[SovereignModel]) -> tuple[DataStatement, ...]:
    """What all builds were trained on, each statement under its region's name."""
    return tuple(
        said.model_copy(update={"name": f"{model.lineage.region}: {said.name}"})
        for model in models
        for said in model.lineage.data
    )


def _licence(models: Sequence[SovereignModel]) -> str:
    licences = sorted({model.lineage.licence for model in models})
    if len(licences) > 1:
        what = f"the builds are under several licences: {', '.join(licences)}"
        raise MergeError(what, "say under which the merged model is to be, with --licence")
    return licences[0]


def _settings(method: Method) -> dict[str, Any]:
    return {name: getattr(method, name) for name in getattr(method, "__dataclass_fields__", {})}


def named(models: Sequence[SovereignModel]) -> dict[str, SovereignModel]:
    """Builds by their regions' names, told apart where regions have the same."""
    regions = [model.lineage.region for model in models]
    return {
        region if regions.count(region) == 1 else f"{region} {model.digest[:8]}": model
        for region, model in zip(regions, models, strict=True)
    }


def same_classes(model: SovereignModel, other: SovereignModel) -> SovereignModel | None:
    """`other` where it can be asked the same as `model`: of the same classes, or without a head."""
    return other if other.head is None or other.class_names == model.class_names else None
