"""`gobelin audit`: what a curious party could learn from what leaves this node."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gobelin.shared.options import AsJson

if TYPE_CHECKING:
    from gobelin.client.leakage import LeakageReport
    from gobelin.client.leakage.subject import Subject

# Imports are late, so that --help need not wait for torch.
app = typer.Typer(add_completion=False, no_args_is_help=True)


@app.callback()
def audit() -> None:
    """Attack this node's own updates, before somebody else does."""


@app.command()
def leakage(
    home: Annotated[
        Path | None, typer.Option(help="A node: its data, and recipe and seed of its last plan.")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Samples, where there is no --home.")] = None,
    recipe: Annotated[str | None, typer.Option(help="Name or file; else the plan's.")] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Base and recipe; else the recipe's initial weights.")
    ] = None,
    modality: Annotated[
        str | None, typer.Option(help="Of the data, where the recipe has several.")
    ] = None,
    local_steps: Annotated[
        str, typer.Option(help="The curve over H, at the recipe's batch size.")
    ] = "1,10,100",
    batch_sizes: Annotated[str, typer.Option(help="The curve over B, at one step.")] = "2,8",
    samples: Annotated[int, typer.Option(help="That it trains on, at most.", min=64)] = 512,
    canaries: Annotated[int, typer.Option(help="Planted, and not planted.", min=8)] = 64,
    inversion: Annotated[bool, typer.Option(help="Solve for images, too.")] = True,
    images: Annotated[int, typer.Option(help="Solved for at once, at most.", min=2)] = 8,
    iterations: Annotated[
        int, typer.Option(help="The inversion's budget; the control has four times as many.", min=1)
    ] = 60,
    codec: Annotated[str, typer.Option(help="By which the update leaves.")] = "fp32",
    seed: Annotated[int, typer.Option(help="Of whatever is drawn.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Also write the JSON to this file.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw it: a .png, .svg or .pdf file.")] = None,
    as_json: AsJson = False,
) -> None:
    """Inversion, membership inference and canaries against real updates, with a control."""
    from gobelin.client.leakage import Audit, audit_leakage
    from gobelin.client.leakage.audit import settings_of
    from gobelin.client.leakage.plot import draw_curve
    from gobelin.client.leakage.subject import open_subject
    from gobelin.shared.codec import codec_named
    from gobelin.shared.evaluation.plots import require_format
    from gobelin.shared.files import write_json
    from gobelin.shared.release.evidence import LEAKAGE

    if plot is not None:
        require_format(plot)
    codec_named(codec)
    steps, batches = _numbers(local_steps, "--local-steps"), _numbers(batch_sizes, "--batch-sizes")
    subject = open_subject(home, data, recipe, checkpoint, modality)
    asked = Audit(
        settings=tuple(settings_of(steps, batches, subject.recipe.inner.batch_size)),
        samples=samples,
        canaries=canaries,
        images=images,
        iterations=iterations,
        inversion=inversion,
        codec=codec,
        seed=seed,
        node_seed=subject.node_seed,
    )
    found = audit_leakage(
        subject.recipe, subject.modality, subject.source, asked, subject.base,
        None if as_json else lambda at: typer.echo(
            f"{at.local_steps} local steps, batch {at.batch_size} ...", err=True
        ),
    )  # fmt: skip
    facts = {
        "format": LEAKAGE,
        "recipe": subject.recipe.name,
        "recipe_digest": subject.recipe.digest,
        "data_samples": len(subject.source),
        **found.facts(),
    }
    if out is not None:
        write_json(out, facts)
    if plot is not None:
        draw_curve(plot, found)
    if as_json:
        print(json.dumps(facts, indent=2))
    else:
        _show(subject, found)


def _show(subject: Subject, report: LeakageReport) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from gobelin.client.leakage.audit import PRIVACY

    table = Table(box=box.SIMPLE, pad_edge=False)
    heads = ["local steps", "batch", "over the mean, dB", "best", "chance", "membership AUC",
             "TPR at 1 % FPR", "canary AUC", "canary TPR"]  # fmt: skip
    for head in heads:
        table.add_column(head, justify="right")
    for each in report.facts()["settings"]:
        inverted = each["inversion"] or {}
        keys = ("over_mean_db", "best_over_mean_db", "chance_over_mean_db")
        cells = [_text(inverted.get(key), "+.2f") for key in keys]
        for scores in (each["membership"], each["canaries"]):
            for key in ("auc", "tpr"):
                best = max(score[key] for score in scores.values()) if scores else None
                cells.append(_text(best, ".2f"))
        table.add_row(str(each["local_steps"]), str(each["batch_size"]), *cells)
    Console().print(table)
    what = f"{len(subject.source):,} samples, recipe {subject.recipe.name}, {report.audit.codec}"
    print(f"{what}; of three scores the best counts (chance of each: AUC 0.50, TPR 0.01)")
    if report.control is None:
        print("No inversion was tried, so nothing is said of it.")
    else:
        said = f"positive control: {report.control.psnr_db:.1f} dB"
        verdict = "succeeds" if report.conclusive else "FAILS: that inversion fails proves nothing"
        print(f"{said} (plain gradient, one step, batch one): it {verdict}")
    print("Membership and canaries have no such control: chance there is weak evidence.")
    print(f"{PRIVACY}; a better attack may find more")


def _text(value: Any, form: str) -> str:
    return "–" if value is None else f"{value:{form}}"


def _numbers(text: str, option: str) -> list[int]:
    """Whole numbers with commas between, or none; raises ConfigError."""
    from gobelin.shared.errors import ConfigError

    try:
        return [int(part) for part in text.split(",")] if text else []
    except ValueError:
        raise ConfigError(f"{option} {text!r} are no whole numbers", "write 1,10,100") from None
