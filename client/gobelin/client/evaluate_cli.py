"""`gobelin evaluate`: what a checkpoint is worth, one question a command, with JSON and a plot."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gobelin.shared.console import print_table
from gobelin.shared.options import AsJson, Checkpoint, Device

if TYPE_CHECKING:
    from gobelin.client.judged import Judged
    from gobelin.shared.evaluation.sample_efficiency import CurvePoint

# Imports are late, so that --help need not wait for torch.
app = typer.Typer(add_completion=False, no_args_is_help=True)


class ProbeName(StrEnum):
    """A probe of frozen features."""

    LINEAR = "linear"
    KNN = "knn"
    ATTENTIVE = "attentive"


class WorldName(StrEnum):
    """A world that is simulated here."""

    TWO_ROOM = "two-room"


class PlannerName(StrEnum):
    """A planner."""

    CEM = "cem"
    ICEM = "icem"
    MPPI = "mppi"
    GRADIENT = "gradient"


Train = Annotated[Path, typer.Option("--data", help="Labelled samples the probes are fitted on.")]
Test = Annotated[Path, typer.Option(help="Labelled samples they are tested on.")]
Modality = Annotated[str | None, typer.Option(help="Of the data, where the recipe has several.")]
Labels = Annotated[int, typer.Option(help="Labelled samples to fit on, at most.", min=2)]
Probes = Annotated[list[ProbeName], typer.Option(help="linear, knn or attentive; repeatable.")]
Draws = Annotated[int, typer.Option(help="Times the labels are drawn.", min=1)]
Seed = Annotated[int, typer.Option(help="Of whatever is drawn.")]
Plot = Annotated[Path | None, typer.Option(help="Also draw it: a .png, .svg or .pdf file.")]


@app.callback()
def evaluate() -> None:
    """Measure a checkpoint: probes, labels needed, shift, health, planning."""


@app.command()
def probe(
    checkpoint: Checkpoint,
    data: Train,
    test: Test,
    attentive: Annotated[bool, typer.Option(help="The attentive probe, too.")] = True,
    modality: Modality = None,
    labels: Labels = 20_000,
    seed: Seed = 0,
    device: Device = "cpu",
    plot: Plot = None,
    as_json: AsJson = False,
) -> None:
    """Linear, attentive, kNN and 10-shot probes and the JEPA loss, beside the raw samples."""
    from gobelin.client.judged import open_judged
    from gobelin.shared.evaluation import Results, Row, evaluate_model, evaluate_raw, print_results
    from gobelin.shared.evaluation.held_out_loss import held_out_loss
    from gobelin.shared.evaluation.plots import bars

    judged = open_judged(checkpoint, data, test, modality, device, plot)
    loss = held_out_loss(judged.encoder, judged.objective, judged.test, seed=seed, device=device)
    options: dict[str, Any] = {"label_budget": labels, "seed": seed, "device": device}
    pair = judged.train, judged.test
    model = evaluate_model(judged.encoder, *pair, loss=loss, attentive=attentive, **options)
    raw = evaluate_raw(judged.modality, *pair, **options)
    if plot is not None:
        keys = ["tokens", "pooled", *(["attentive"] if attentive else []), "knn", "few_shot"]
        series = {
            "raw samples": [raw.facts()[key] for key in keys],
            checkpoint.name: [model.facts()[key] for key in keys],
        }
        names = {"knn": "kNN", "few_shot": "10-shot"}
        bars(plot, "Probes", "accuracy, %", [names.get(key, key) for key in keys], series)
    if as_json:
        _print(judged, seed, {"model": model.facts(), "raw": raw.facts()})
        return
    rows = [Row("raw samples", raw), Row(checkpoint.name, model, highlight=True)]
    note = f"{model.train_images:,} labels, {model.test_images:,} test samples, seed {seed}"
    print_results(Results(rows, notes=[note]))


@app.command("few-shot")
def few_shot(
    checkpoint: Checkpoint,
    data: Train,
    test: Test,
    shots: Annotated[int, typer.Option(help="Labels a class.", min=1)] = 10,
    draws: Draws = 5,
    probes: Probes = [ProbeName.LINEAR, ProbeName.KNN],  # noqa: B006
    modality: Modality = None,
    seed: Seed = 0,
    device: Device = "cpu",
    plot: Plot = None,
    as_json: AsJson = False,
) -> None:
    """Accuracy with a few labels a class, mean and deviation over draws of them."""
    from gobelin.client.judged import open_judged
    from gobelin.shared.evaluation.plots import bars

    judged = open_judged(checkpoint, data, test, modality, device, plot)
    found = judged.curves([str(name) for name in probes], (shots,), draws, seed)
    if plot is not None:
        points = {who: [by[n][0] if n in by else None for n in probes] for who, by in found.items()}
        series = {who: [p.accuracy if p else None for p in row] for who, row in points.items()}
        errors = {
            who: [(p.deviation, p.deviation) if p else (0.0, 0.0) for p in row]
            for who, row in points.items()
        }
        bars(plot, f"{shots} labels a class", "accuracy, %", list(probes), series, errors)
    _show_curves(judged, found, {"shots": shots, "draws": draws}, seed, as_json)


@app.command()
def curve(
    checkpoint: Checkpoint,
    data: Train,
    test: Test,
    shots: Annotated[str, typer.Option(help="Labels a class.")] = "1,2,5,10,20,50,100",
    draws: Draws = 5,
    probes: Probes = [ProbeName.LINEAR],  # noqa: B006
    modality: Modality = None,
    seed: Seed = 0,
    device: Device = "cpu",
    plot: Plot = None,
    as_json: AsJson = False,
) -> None:
    """Sample efficiency: how accuracy rises with the labels a class."""
    from gobelin.client.judged import open_judged
    from gobelin.shared.evaluation.plots import Line, lines

    counts = _numbers(shots, "--shots")
    judged = open_judged(checkpoint, data, test, modality, device, plot)
    found = judged.curves([str(name) for name in probes], counts, draws, seed)
    if plot is not None:
        drawn = [
            Line(
                f"{who}, {name}",
                [point.shots for point in points],
                [point.accuracy for point in points],
                [point.deviation for point in points],
                dashed=who == "raw",
            )
            for who, by in found.items()
            for name, points in by.items()
        ]
        axes = "labels a class", "accuracy, %"
        lines(plot, "Sample efficiency", *axes, drawn, logarithmic=True)
    _show_curves(judged, found, {"shots": counts, "draws": draws}, seed, as_json)


@app.command()
def shift(
    checkpoint: Checkpoint,
    data: Train,
    test: Test,
    corruption: Annotated[
        list[str], typer.Option(help="Of the modality's; repeatable. All of them unless named.")
    ] = [],  # noqa: B006
    severities: Annotated[str, typer.Option(help="Of 1 to 5.")] = "1,2,3,4,5",
    samples: Annotated[int, typer.Option(help="Test samples that are corrupted.", min=2)] = 2000,
    modality: Modality = None,
    labels: Labels = 20_000,
    seed: Seed = 0,
    device: Device = "cpu",
    plot: Plot = None,
    as_json: AsJson = False,
) -> None:
    """Out-of-distribution shift: a linear probe of clean samples, tested on corrupted ones."""
    from gobelin.client.judged import open_judged
    from gobelin.shared.evaluation.plots import Line, lines

    chosen = _numbers(severities, "--severities")
    judged = open_judged(checkpoint, data, test, modality, device, plot)
    found = judged.shift(corruption, chosen, labels, samples, seed)
    model, raw = found["model"], found["raw"]
    if plot is not None:
        drawn = [
            Line(name, [0, *by], [model.clean, *by.values()])
            for name, by in model.corrupted.items()
        ]
        every = {s: [by[s] for by in raw.corrupted.values()] for s in sorted(set(chosen))}
        means = [sum(each) / len(each) for each in every.values()]
        drawn.append(Line("raw samples, mean", [0, *every], [raw.clean, *means], dashed=True))
        lines(plot, "Out-of-distribution shift", "severity", "accuracy, %", drawn)
    if as_json:
        _print(judged, seed, {who: one.facts() for who, one in found.items()})
        return
    levels = sorted(set(chosen))
    rows = [
        [name, *(f"{by[s]:.1f}" for s in levels), f"{sum(by.values()) / len(by):.1f}",
         f"{sum(raw.corrupted[name].values()) / len(by):.1f}"]
        for name, by in model.corrupted.items()
    ]  # fmt: skip
    print_table(["corruption", *map(str, levels), "mean", "raw samples"], rows)
    print(
        f"clean {model.clean:.1f} %, corrupted {model.mean:.1f} %: {model.kept:.0f} % is kept "
        f"(raw samples {raw.clean:.1f} %, {raw.mean:.1f} %, {raw.kept:.0f} %); "
        f"{model.samples:,} samples, seed {seed}"
    )


@app.command()
def health(
    checkpoint: Checkpoint,
    data: Annotated[Path, typer.Option(help="Samples to look at; labels are not needed.")],
    base: Annotated[
        Path | None, typer.Option(help="A sound checkpoint to compare with, such as an earlier.")
    ] = None,
    samples: Annotated[int, typer.Option(help="Samples looked at.", min=2)] = 1024,
    modality: Modality = None,
    seed: Seed = 0,
    device: Device = "cpu",
    plot: Plot = None,
    as_json: AsJson = False,
) -> None:
    """Ranks, LiDAR, SIGReg, straightness and rotation; an error where it has collapsed."""
    from gobelin.client.judged import CollapsedError, open_health
    from gobelin.shared.evaluation.plots import spectra

    judged, report = open_health(checkpoint, base, data, modality, device, plot, samples, seed)
    facts = report.facts()
    if plot is not None:
        widths = report.spectrum.tolist(), report.deviations.tolist()
        spectra(plot, f"Health of {checkpoint.name}", *widths)
    if as_json:
        _print(judged, seed, facts)
    else:
        shown = {key: value for key, value in facts.items() if key != "alarm" and value is not None}
        print_table(
            ["figure", "value"], [[key.replace("_", " "), _text(v)] for key, v in shown.items()]
        )
    if report.alarm is not None:
        what = f"the model has collapsed ({report.alarm.kind.value}): {report.alarm.found}"
        raise CollapsedError(what, "go back to a sound release")


@app.command()
def planning(
    checkpoint: Checkpoint,
    world: Annotated[WorldName, typer.Option(help="Where it plans.")],
    episodes: Annotated[int, typer.Option(help="Starts and goals.", min=1)] = 50,
    budget: Annotated[int, typer.Option(help="Steps an episode may take.", min=1)] = 40,
    planner: Annotated[PlannerName, typer.Option(help="Of the search.")] = PlannerName.ICEM,
    horizon: Annotated[int, typer.Option(help="Steps looked ahead.", min=1, max=512)] = 12,
    modality: Modality = None,
    seed: Seed = 0,
    device: Device = "cpu",
    plot: Plot = None,
    as_json: AsJson = False,
) -> None:
    """Planning success and cost from pictures alone, beside random actions and a straight line."""
    from gobelin.shared.evaluation.expectation import require_two_room
    from gobelin.shared.evaluation.planning_score import score_planning, two_room_task
    from gobelin.shared.evaluation.plots import bars, require_format
    from gobelin.shared.planning import PLANNERS
    from gobelin.shared.worldmodel.oracle import open_oracle

    if plot is not None:
        require_format(plot)
    model = open_oracle(checkpoint, modality, device).model
    place = require_two_room(model)
    task = two_room_task(place, episodes, budget, seed)
    search = PLANNERS[planner.value]()
    found = score_planning(model, place, task, search, horizon=horizon, seed=seed, device=device)
    facts = {name: one.facts() for name, one in found.items()}
    if plot is not None:
        heights = {"success": [one["success"] for one in facts.values()]}
        around = [
            (one["success"] - one["success_low"], one["success_high"] - one["success"])
            for one in facts.values()
        ]
        bars(plot, f"Planning, {world.value}", "episodes at their goal, %", list(facts), heights,
             {"success": around})  # fmt: skip
    if as_json:
        options = {"world": world.value, "episodes": episodes, "budget": budget, "seed": seed}
        said = {**options, "planner": planner.value, "horizon": horizon, **facts}
        print(json.dumps(said, indent=2))
        return
    rows = [
        [name, f"{one['success']:.0f}", f"{one['success_low']:.0f} – {one['success_high']:.0f}",
         *(_text(one[key]) for key in ("steps", "length"))]
        for name, one in facts.items()
    ]  # fmt: skip
    print_table(["policy", "success %", "95 %", "steps", "way"], rows)
    print(
        f"{episodes} episodes of {budget} steps at most, seed {seed}; steps and way of those there"
    )


def _show_curves(
    judged: Judged,
    found: dict[str, dict[str, list[CurvePoint]]],
    options: dict[str, Any],
    seed: int,
    as_json: bool,
) -> None:
    """Curves of the model and of raw samples."""
    from gobelin.shared.evaluation.label_curves import curve_facts

    if as_json:
        _print(judged, seed, {**options, **{who: curve_facts(by) for who, by in found.items()}})
        return
    rows = [
        [who, name, str(p.shots), f"{p.labels:,}", f"{p.accuracy:.1f} ± {p.deviation:.1f}"]
        for who, by in found.items()
        for name, points in by.items()
        for p in points
    ]
    print_table(["features", "probe", "labels a class", "labels", "accuracy %"], rows)


def _print(judged: Judged, seed: int, facts: dict[str, Any]) -> None:
    print(json.dumps({"vector_digest": judged.digest, "seed": seed, **facts}, indent=2))


def _numbers(text: str, option: str) -> list[int]:
    """Whole numbers with commas between; raises ConfigError."""
    from gobelin.shared.errors import ConfigError

    try:
        found = [int(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"{option} {text!r} are no whole numbers", "write 1,2,5") from None
    return found


def _text(value: float | str | None) -> str:
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
