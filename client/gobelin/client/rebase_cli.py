"""`gobelin sovereign rebase`: a region's build goes over to the next release."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gobelin.client.build_cli import DEFAULT_HOME, Home
from gobelin.client.options import Key, Unverified
from gobelin.shared.options import AsJson, Device

if TYPE_CHECKING:
    from gobelin.client.sovereign.build import Given
    from gobelin.client.sovereign.consensus import Consensus
    from gobelin.client.sovereign.gate import Floors, Judgement
    from gobelin.client.sovereign.package import SovereignModel
    from gobelin.client.sovereign.rebase import Rebased, Rebaser, Stage
    from gobelin.client.sovereign.report import EvaluationSettings, Report
    from gobelin.shared.frame import Frame


def rebase(
    package: Annotated[Path, typer.Argument(help="The sovereign model's folder.")],
    onto: Annotated[Path, typer.Option(help="The newer release's folder.")],
    out: Annotated[Path, typer.Option(help="Folder the rebased model is written to.")],
    from_: Annotated[
        Path | None,
        typer.Option("--from", help="The release it was built on; else looked for beside --onto."),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="Samples it was built on: to align, to choose by, to recover on."),
    ] = None,
    test: Annotated[
        Path | None, typer.Option(help="Labelled test samples, for the report and its gate.")
    ] = None,
    mask: Annotated[
        str, typer.Option(help="Of the delta: none, movement, gradient, or auto: tried in turn.")
    ] = "none",
    recovery: Annotated[
        str, typer.Option(help="Short training: auto (where a floor breaks), never or always.")
    ] = "auto",
    floor: Annotated[
        float,
        typer.Option(min=0, help="Points of held-out accuracy lost from which `auto` trains."),
    ] = 1.0,
    share: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the build's steps to recover in.")
    ] = 0.05,
    compare_fresh: Annotated[
        bool, typer.Option("--compare-fresh", help="Build anew as well, and compare.")
    ] = False,
    config: Annotated[
        Path | None,
        typer.Option(
            help="BUILD.toml, for its tables evaluation and gate; else the package's gate."
        ),
    ] = None,
    key: Key = None,
    unverified: Unverified = False,
    home: Home = DEFAULT_HOME,
    device: Device = "cpu",
    as_json: AsJson = False,
) -> None:
    """Carry a build over to a newer release: its delta copied, its head aligned, signed anew.

    Without --data nothing is trained or measured. The package itself stays as it is.
    """
    # Late, so that --help need not wait for torch.
    from gobelin.client.sovereign.consensus import take_release
    from gobelin.client.sovereign.gate import Floors
    from gobelin.client.sovereign.lineage import region_key
    from gobelin.client.sovereign.package import load, require_free, write_package
    from gobelin.client.sovereign.rebase import Rebaser, RebaseSettings, find_release
    from gobelin.client.sovereign_evaluate_cli import read_tables
    from gobelin.shared.errors import RebaseError
    from gobelin.shared.settings import check_settings

    require_free(out)
    told = {"mask": mask, "recovery": recovery, "floor": floor, "share": share}
    settings = check_settings(RebaseSettings, told, "the options")
    old = load(package, device=device)
    tables = read_tables(config, {})
    if config is None and "gate" in old.build:
        tables = tables[0], check_settings(Floors, old.build["gate"], "the package's own gate")
    consensus = take_release(onto, home=home, key=key, unverified=unverified)
    digest = old.lineage.release.vector_digest
    if digest == consensus.vector.digest:
        raise RebaseError(f"{package} is on that release already", "name a newer one as --onto")
    before = find_release(digest, [from_] if from_ else [onto.absolute().parent])
    given, published = _opened(old, data, test), _published(onto, old)
    work = Rebaser(old, before, consensus, given, settings, published)
    fresh = work.fresh() if compare_fresh else None
    found, report = _carried(work, consensus, tables, (data, test), fresh, out)
    model = _described(found, report, fresh)
    written = write_package(out, model, region_key(home))
    _print(written, found, fresh, report, as_json)


def _opened(old: SovereignModel, data: Path | None, test: Path | None) -> Given | None:
    from gobelin.client.sovereign.build import Given
    from gobelin.client.sovereign.labels import under_names

    kind = old.recipe.modality(old.modality)
    if data is None:
        return None
    given = Given(under_names(kind.open(data), old.class_names))
    return given if test is None else replace(given, test=kind.open(test))


def _published(onto: Path, old: SovereignModel) -> Frame | None:
    """The frame that the release itself carries, where it is one to the build's own release."""
    from gobelin.shared.release.transplant import read_frame

    modality = old.recipe.pick(old.modality)
    return read_frame(onto, old.lineage.release.vector_digest, modality)


def _carried(
    work: Rebaser,
    consensus: Consensus,
    tables: tuple[EvaluationSettings, Floors],
    paths: tuple[Path | None, Path | None],
    fresh: Stage | None,
    out: Path,
) -> tuple[Rebased, Report | None]:
    """Carried over, recovered where a floor asks for it, and the report.

    Raises GateError where a floor is broken all the same, the report kept beside `out`.
    """
    from gobelin.client.sovereign.gate import broken, judge, require_kept
    from gobelin.client.sovereign.page import write_report
    from gobelin.client.sovereign.reporting import refused_at

    settings, floors = tables

    def look(found: Rebased) -> tuple[Report | None, list[Judgement]]:
        report = _report(work, found, consensus, settings, paths, fresh)
        judgements = judge(report.figures if report else {}, floors)
        return report and report.judged(judgements), judgements

    found, wanted = work.carry(), work.settings.recovery
    if wanted == "always" or (wanted == "auto" and work.needs_recovery(found)):
        found = work.recover(found)
    report, judgements = look(found)
    trainable = wanted == "auto" and found.stage("recovered") is None and work.task is not None
    if broken(judgements) and trainable:
        found = work.recover(found)
        report, judgements = look(found)
    if report is not None and broken(judgements):
        write_report(refused_at(out), report)
    require_kept(judgements, str(refused_at(out)) if report else "--data: nothing was measured")
    return found, report


def _report(
    work: Rebaser,
    found: Rebased,
    consensus: Consensus,
    settings: EvaluationSettings,
    paths: tuple[Path | None, Path | None],
    fresh: Stage | None,
) -> Report | None:
    """On the test samples: the rebased model, what it was before, and a fresh build."""
    from gobelin.client.sovereign.assessment import Region, assess, open_region
    from gobelin.client.sovereign.reporting import HELD

    (data, test), task = paths, work.task
    if task is not None:
        region = Region(test.name if test else "held out", task.train, task.test)
    elif data is not None and test is not None:
        region = open_region(found.model, test.name, data, test)
    else:
        return None
    also = {"before the rebase": work.old}
    also |= {"built anew": fresh.model} if fresh is not None else {}
    report = assess(found.model, consensus, region, settings, also=also)
    return report if test else replace(report, notes=(HELD, *report.notes))


def _described(found: Rebased, report: Report | None, fresh: Stage | None) -> SovereignModel:
    """The model with its report, its card and what the way to it was, in its lineage."""
    from gobelin.client.sovereign.assessment import with_report
    from gobelin.client.sovereign.card import FILE, card_of
    from gobelin.client.sovereign.page import report_files

    model = found.model
    if report is not None:
        model = with_report(model, report, report_files(report))
    way = [stage.plain() for stage in (*found.stages, *([fresh] if fresh else []))]
    evaluation = {**model.lineage.evaluation, "rebase": {"stages": way}}
    model = replace(model, lineage=model.lineage.model_copy(update={"evaluation": evaluation}))
    return replace(model, files={FILE: card_of(model).encode(), **model.files})


def _print(
    model: SovereignModel,
    found: Rebased,
    fresh: Stage | None,
    report: Report | None,
    as_json: bool,
) -> None:
    from gobelin.client.sovereign_evaluate_cli import print_report
    from gobelin.shared.console import print_table

    stages = [*found.stages, *([fresh] if fresh else [])]
    if as_json:
        facts = model.lineage.model_dump(mode="json", exclude={"files", "format"})
        told: dict[str, Any] = {"event": "rebased", "model": str(model.folder)}
        told |= {"digest": model.digest, "key": model.signed_by, **facts}
        print(json.dumps(told | {"stages": [stage.plain() for stage in stages]}))
        return
    rows = [
        [s.name, *(("–" if v is None else f"{v:.1f} %") for v in (s.held_out,)), f"{s.steps}",
         "–" if s.name == "before" else f"{s.seconds:.1f} s"]
        for s in stages
    ]  # fmt: skip
    print_table(["stage", "held-out accuracy", "steps", "time"], rows)
    if report is not None:
        print_report(report)
    if not model.lineage.release.verified:
        print("on a checkpoint that nobody has verified")
    print(f"saved to {model.folder}, signed by {model.signed_by[:16]}…")
