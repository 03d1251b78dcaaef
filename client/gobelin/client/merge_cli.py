"""`gobelin sovereign merge`: one model of several regions' builds on one release."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gobelin.client.build_cli import DEFAULT_HOME, Home
from gobelin.shared.options import AsJson, Device

if TYPE_CHECKING:
    from gobelin.client.sovereign.package import SovereignModel
    from gobelin.client.sovereign.report import Report
    from gobelin.shared.vector import ParameterVector


def merge(
    packages: Annotated[list[Path], typer.Argument(help="Sovereign models on one release.")],
    out: Annotated[Path, typer.Option(help="Folder the merged model is written to.")],
    release: Annotated[Path, typer.Option(help="That release; believed by its digest.")],
    method: Annotated[
        str, typer.Option(help="weights, task-arithmetic, ties or dare.")
    ] = "weights",
    weight: Annotated[
        list[float] | None,
        typer.Option(help="Of each package, in their order; repeatable. Unset: all alike."),
    ] = None,
    scale: Annotated[
        float | None, typer.Option(help="What the merged delta is multiplied by: λ.")
    ] = None,
    density: Annotated[
        float | None, typer.Option(help="ties: share of each delta that is kept.")
    ] = None,
    drop: Annotated[
        float | None, typer.Option(help="dare: share of each delta that is dropped.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="dare: of what is dropped.")] = None,
    head: Annotated[
        str | None,
        typer.Option(
            help="The package whose head is kept; joined, for regions that see alike; or none. "
            "To be said where builds have heads."
        ),
    ] = None,
    region: Annotated[str, typer.Option(help="Whose model it is, for the lineage.")] = "merged",
    licence: Annotated[str | None, typer.Option(help="Where the builds' differ.")] = None,
    data: Annotated[
        Path | None, typer.Option(help="Labelled samples that probes are fitted on.")
    ] = None,
    test: Annotated[
        Path | None, typer.Option(help="Labelled test samples, for the report and its gate.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="BUILD.toml, for its tables evaluation and gate.")
    ] = None,
    home: Home = DEFAULT_HOME,
    device: Device = "cpu",
    as_json: AsJson = False,
) -> None:
    """Merge builds without their data; signed by this region, with all parents in the lineage.

    Joined heads read a class that several know by their mean, any other by the one that knows it.
    """
    # Late, so that --help need not wait for torch.
    from gobelin.client.sovereign.lineage import region_key
    from gobelin.client.sovereign.merge import merge_models, require_mergeable
    from gobelin.client.sovereign.merging import make_method
    from gobelin.client.sovereign.package import load, require_free, write_package
    from gobelin.client.sovereign.rebase import find_release

    require_free(out)
    way = make_method(method, scale=scale, density=density, drop=drop, seed=seed)
    models = [load(folder, device=device) for folder in packages]
    require_mergeable(models)
    base = find_release(models[0].lineage.release.vector_digest, [release])
    model = merge_models(
        models,
        base,
        way,
        region=region,
        weights=weight,
        head=_whose(head, packages, models),
        licence=licence,
    )
    report = _report(model, models, base, (data, test), config)
    described = _described(model, report)
    written = write_package(out, described, region_key(home))
    _print(written, models, report, as_json)


def _whose(
    head: str | None, packages: list[Path], models: list[SovereignModel]
) -> str | SovereignModel | None:
    """The head's way, or the package that is named by its folder; raises MergeError."""
    from gobelin.client.sovereign.merge import JOINED, NONE
    from gobelin.shared.errors import MergeError

    if head in (None, JOINED, NONE):
        return head
    for folder, model in zip(packages, models, strict=True):
        if folder.absolute() == Path(head).absolute():
            return model
    raise MergeError(f"--head {head} is none of the packages", "name one of them, joined or none")


def _report(
    model: SovereignModel,
    parents: list[SovereignModel],
    release: ParameterVector,
    paths: tuple[Path | None, Path | None],
    config: Path | None,
) -> Report | None:
    """The merged model against the consensus and each build; raises GateError."""
    from gobelin.client.sovereign.assessment import assess, open_region
    from gobelin.client.sovereign.gate import judge, require_kept
    from gobelin.client.sovereign.merge import consensus_of, named, same_classes
    from gobelin.client.sovereign_evaluate_cli import read_tables

    settings, floors = read_tables(config, {})
    data, test = paths
    if data is None or test is None:
        return None
    task = open_region(model, test.name, data, test)
    also = {name: each for name, each in named(parents).items() if same_classes(model, each)}
    report = assess(model, consensus_of(model, release), task, settings, also=also)
    report = report.judged(judge(report.figures, floors))
    require_kept(list(report.gate), "the figures above")
    return report


def _described(model: SovereignModel, report: Report | None) -> SovereignModel:
    from gobelin.client.sovereign.assessment import with_report
    from gobelin.client.sovereign.card import FILE, card_of
    from gobelin.client.sovereign.page import report_files

    how = model.lineage.evaluation
    if report is not None:
        model = with_report(model, report, report_files(report))
        evaluation = {**how, **model.lineage.evaluation}
        model = replace(model, lineage=model.lineage.model_copy(update={"evaluation": evaluation}))
    return replace(model, files={FILE: card_of(model).encode(), **model.files})


def _print(
    model: SovereignModel, parents: list[SovereignModel], report: Report | None, as_json: bool
) -> None:
    from gobelin.client.sovereign_evaluate_cli import print_report

    if as_json:
        facts = model.lineage.model_dump(mode="json", exclude={"files", "format"})
        told = {"event": "merged", "model": str(model.folder), "digest": model.digest}
        print(json.dumps({**told, "task": model.task, "key": model.signed_by, **facts}))
        return
    for parent in parents:
        print(f"{parent.lineage.region}: {parent.folder}, signed by {parent.signed_by[:16]}…")
    how = model.lineage.evaluation["merge"]
    classes = f", {len(model.class_names)} classes" if model.head is not None else ""
    print(f"merged by {how['name']}: a {model.task} model{classes}")
    if report is not None:
        print_report(report)
    print(f"saved to {model.folder}, signed by {model.signed_by[:16]}…")
