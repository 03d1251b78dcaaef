"""The report of a build that was just made, and its gate: before anything is signed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from gobelin.client.sovereign.again import repeater
from gobelin.client.sovereign.assessment import Region, assess, open_region, with_report
from gobelin.client.sovereign.card import FILE as CARD
from gobelin.client.sovereign.card import card_of
from gobelin.client.sovereign.consensus import Consensus
from gobelin.client.sovereign.gate import broken, judge, require_kept
from gobelin.client.sovereign.labels import open_task
from gobelin.client.sovereign.package import SovereignModel
from gobelin.client.sovereign.page import report_files, write_report
from gobelin.client.sovereign.report import Report
from gobelin.client.sovereign.settings import BuildSettings
from gobelin.client.workbench import pick_device
from gobelin.shared.files import remove_folder

if TYPE_CHECKING:
    from gobelin.client.sovereign.build import Given

HELD = (
    "No test set was given: the test samples are the held-out part of the data, which training "
    "was stopped by. The figures are a little too good."
)


def refused_at(out: Path) -> Path:
    """Where the report of a model that was not signed is kept."""
    return out.absolute().with_name(f"{out.absolute().name}.refused")


def reported(
    model: SovereignModel, consensus: Consensus, given: Given, settings: BuildSettings
) -> SovereignModel:
    """The model with its report, to be signed; without one where there is nothing to test on.

    Raises GateError where a floor is broken, after the report was written to `refused_at(out)`.
    """
    report = None
    if settings.evaluation.report:
        placed = replace(model, device=pick_device(settings.compute))
        report = report_of(placed, consensus, given, settings)
    judgements = judge(report.figures if report else {}, settings.gate)
    kept = refused_at(settings.out)
    if broken(judgements):
        if report is not None:
            write_report(kept, report.judged(judgements))
        where = f"{kept}" if report else "docs/sovereign.md: there was nothing to test on"
        require_kept(judgements, where)
    if kept.is_dir():
        remove_folder(kept)  # of an earlier try
    if report is None:
        return model
    report = report.judged(judgements)
    told = with_report(model, report, report_files(report))
    return replace(told, files={**told.files, CARD: card_of(told).encode()})


def report_of(
    model: SovereignModel, consensus: Consensus, given: Given, settings: BuildSettings
) -> Report | None:
    """The report of a build; None where the data have neither labels nor whole episodes to test."""
    region = _region(model, given, settings)
    if region is None:
        return None
    again = repeater(consensus, given, settings)
    report = assess(model, consensus, region, settings.evaluation, again=again)
    if settings.test is None and given.test is None:
        report = replace(report, notes=(HELD, *report.notes))
    return report


def _region(model: SovereignModel, given: Given, settings: BuildSettings) -> Region | None:
    if model.task == "world model":
        if settings.test is None:
            return None  # of the training episodes it would say nothing
        return open_region(model, settings.test.name, settings.data, settings.test)
    name = (settings.test or settings.data).name
    if given.test is not None and given.test.labels is not None:
        return Region(name, given.data, given.test)
    if model.head is None:
        return None
    labels = settings.labels
    task = open_task(
        given.data,
        None,
        classes=labels.classes,
        budget=labels.budget,
        held_out=labels.held_out,
        seed=settings.seed,
    )
    return Region(name, task.train, task.held)
