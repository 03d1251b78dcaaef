"""`gobelin sovereign`: what a region builds for itself on a consensus release."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False, no_args_is_help=True)


@app.callback()
def sovereign() -> None:
    """Build a region's own model on a consensus release. Nothing flows back."""


@app.command()
def probe(
    release: Annotated[Path, typer.Option(help="Release (or checkpoint) folder.")],
    data: Annotated[Path, typer.Option(help="The region's labelled images.")],
    out: Annotated[Path, typer.Option(help="Folder the head is written to.")],
    test: Annotated[
        Path | None, typer.Option(help="Labelled test images; else a fifth of --data is held out.")
    ] = None,
    modality: Annotated[
        str | None, typer.Option(help="Of the data, where the recipe has several.")
    ] = None,
    labels: Annotated[int, typer.Option(help="Labelled images to use, at most.", min=2)] = 20000,
    seed: Annotated[int, typer.Option(help="Seed of the labels drawn and held out.")] = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda, ...")] = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Train a linear head on the frozen consensus; the release itself stays as it is."""
    # Late, so that --help need not wait for torch.
    from gobelin.client.sovereign.probe import build_head, save_head
    from gobelin.shared.checkpoint import read_checkpoint
    from gobelin.shared.evaluation.embed import require_device

    found = read_checkpoint(release)
    require_device(device)
    kind = found.recipe.modality(modality)
    known = kind.open(data)
    unseen = None if test is None else kind.open(test)
    head = build_head(
        found, known, unseen, label_budget=labels, seed=seed, device=device, modality=modality
    )
    save_head(out, head)
    if as_json:
        print(json.dumps({"head": str(out), "seed": seed, **head.facts()}, indent=2))
        return
    print(
        f"head on release {head.release_digest[:12]}: {head.accuracy:.1f} % of "
        f"{head.test_images:,} unseen images, {len(head.class_names)} classes, "
        f"{head.train_images:,} labels, seed {seed}"
    )
    print(f"saved to {out}")


from gobelin.client import export_cli  # noqa: E402  its command is part of this group

export_cli.add_to(app)
