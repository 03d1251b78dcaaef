"""`gobelin sovereign evaluate`: what a sovereign model is worth, on the region's own test data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gobelin.client.options import Key, Unverified
from gobelin.shared.options import AsJson, Device, SignedBy

if TYPE_CHECKING:
    from gobelin.client.sovereign.assessment import Again, Region
    from gobelin.client.sovereign.consensus import Consensus
    from gobelin.client.sovereign.gate import Floors
    from gobelin.client.sovereign.package import SovereignModel
    from gobelin.client.sovereign.report import EvaluationSettings, Report


def evaluate(
    package: Annotated[Path, typer.Argument(help="A sovereign model's folder.")],
    data: Annotated[Path, typer.Option(help="Samples it was built on: probes are fitted on them.")],
    test: Annotated[Path, typer.Option(help="The region's labelled test samples, or episodes.")],
    out: Annotated[Path, typer.Option(help="Folder of evaluation.json and report.html.")],
    release: Annotated[
        Path | None, typer.Option(help="The release it was built on, to compare with.")
    ] = None,
    general: Annotated[
        list[Path] | None,
        typer.Option(help="A benchmark of the consensus's own: labelled samples; repeatable."),
    ] = None,
    solo: Annotated[
        Path | None, typer.Option(help="Checkpoint of a model the region trained alone.")
    ] = None,
    anomalous: Annotated[
        list[str] | None, typer.Option(help="A class of --test that should be found; repeatable.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="BUILD.toml, for its tables evaluation and gate.")
    ] = None,
    again: Annotated[
        bool, typer.Option(help="Build it anew from random weights and with few labels, too.")
    ] = False,
    home: Annotated[
        Path | None, typer.Option(help="Joined home: whose key signs releases.")
    ] = None,
    key: Key = None,
    signed_by: SignedBy = None,
    unverified: Unverified = False,
    device: Device = "cpu",
    as_json: AsJson = False,
) -> None:
    """Compare a model with the consensus and others, sample by sample, with intervals.

    The report is written whether floors hold or not; a broken one ends with exit code 66.
    """
    # Late, so that --help need not wait for torch.
    from gobelin.client.sovereign.assessment import assess, open_region
    from gobelin.client.sovereign.consensus import take_release
    from gobelin.client.sovereign.gate import judge, require_kept
    from gobelin.client.sovereign.package import load
    from gobelin.client.sovereign.page import write_report

    given = {"general": general, "solo": solo, "anomalous": anomalous}
    settings, floors = read_tables(config, {k: v for k, v in given.items() if v})
    model = load(package, key=signed_by, device=device)
    consensus = None
    if release is not None:
        consensus = take_release(release, home=home, key=key, unverified=unverified)
    region = open_region(model, test.name, data, test)
    repeat = None
    if again:
        repeat = _repeater(model, consensus, region, data, device)
    report = assess(model, consensus, region, settings, again=repeat)
    report = report.judged(judge(report.figures, floors))
    written = write_report(out, report)
    if as_json:
        print(json.dumps(report.plain(), indent=2))
    else:
        print_report(report)
        print(f"written: {', '.join(str(path) for path in written)}")
    require_kept(list(report.gate), str(written[-1]))


def _repeater(
    model: SovereignModel, consensus: Consensus | None, region: Region, data: Path, device: str
) -> Again:
    """What builds the model anew; raises ConfigError."""
    from gobelin.client.sovereign.again import repeater, settings_of
    from gobelin.client.sovereign.build import Given
    from gobelin.client.sovereign.labels import under_names
    from gobelin.shared.errors import ConfigError

    if consensus is None:
        raise ConfigError("nothing to build anew from", "give the --release it was built on")
    kind = model.recipe.modality(model.modality)
    given = Given(under_names(kind.open(data), model.class_names))
    return repeater(consensus, given, settings_of(model, data, device))


def read_tables(config: Path | None, given: dict[str, object]) -> tuple[EvaluationSettings, Floors]:
    """The tables of a BUILD.toml, over which what was given on the command line goes.

    Raises ConfigError.
    """
    from gobelin.client.sovereign.gate import Floors
    from gobelin.client.sovereign.report import EvaluationSettings
    from gobelin.client.sovereign.settings import of_evaluation
    from gobelin.shared.errors import ConfigError
    from gobelin.shared.settings import check_settings, read_toml

    tables = {} if config is None else read_toml(config)
    own = tables.get("evaluation", {})
    floors = tables.get("gate", {})
    if not isinstance(own, dict) or not isinstance(floors, dict):
        raise ConfigError(f"{config}: evaluation and gate are tables", "write [evaluation]")
    where = "evaluation" if config is None else f"{config}, [evaluation]"
    own = own if config is None else of_evaluation(own, config.parent)
    settings = check_settings(EvaluationSettings, {**own, **given}, where)
    return settings, check_settings(Floors, floors, f"{config}, [gate]")


def print_report(report: Report) -> None:
    """The tables of the terminal."""
    from gobelin.client.sovereign.page import HEADINGS
    from gobelin.shared.console import print_table

    names = list(dict.fromkeys(name for each in report.found for name in each.figures))
    rows = []
    for each in report.found:
        cells = [each.figures[n].text() if n in each.figures else "–" for n in names]
        gain = report.gains.get(each.role)
        rows.append([each.title, *cells, gain.text(signed=True) if gain else ""])
    print_table(["model", *(HEADINGS.get(n, n) for n in names), "ahead by"], rows)
    if report.general:
        print_table(
            ["general benchmark", "consensus", "sovereign", "points lost"],
            [[k.name, k.consensus.text(), k.sovereign.text(), k.lost.text(signed=True)]
             for k in report.general],
        )  # fmt: skip
    for found in report.found[:1]:
        if found.calibration is not None:
            told = found.calibration
            print(
                f"calibration: ECE {told.ece.text()} %, Brier {told.brier.text(3)}, "
                f"NLL {told.nll.text(3)}, over-confident by {told.overconfidence:+.1f} points"
            )
    for judgement in report.gate:
        print(f"{'holds ' if judgement.holds else 'BROKEN'}  {judgement.text}")
    for note in report.notes:
        print(note)
