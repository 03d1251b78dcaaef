"""`gobelin evaluate`: measure any checkpoint on labelled data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False)


@app.command()
def evaluate(
    checkpoint: Annotated[Path, typer.Argument(help="Checkpoint or release folder.")],
    data: Annotated[Path, typer.Option(help="Labelled images the probes are fitted on.")],
    test: Annotated[Path, typer.Option(help="Labelled images they are tested on.")],
    modality: Annotated[
        str | None, typer.Option(help="Of the data, where the recipe has several.")
    ] = None,
    labels: Annotated[int, typer.Option(help="Labelled images to fit on, at most.", min=2)] = 20000,
    seed: Annotated[int, typer.Option(help="Seed of the labels drawn.")] = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda, ...")] = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Linear probe, kNN, 10-shot, JEPA loss and health of a checkpoint, beside the raw samples."""
    # Late, so that --help need not wait for torch.
    from gobelin.shared.checkpoint import read_checkpoint
    from gobelin.shared.evaluation import (
        Results,
        Row,
        evaluate_model,
        evaluate_raw,
        print_results,
    )
    from gobelin.shared.evaluation.embed import require_device
    from gobelin.shared.evaluation.held_out_loss import held_out_loss
    from gobelin.shared.model import encoder_of

    found = read_checkpoint(checkpoint)
    require_device(device)
    kind = found.recipe.modality(modality)
    train_source, test_source = kind.open(data), kind.open(test)
    model = encoder_of(found.recipe, found.vector, modality).to(device)
    objective = found.recipe.objective_of(modality)
    loss = held_out_loss(model, objective, test_source, seed=seed, device=device)
    evaluation = evaluate_model(
        model, train_source, test_source, label_budget=labels, seed=seed, loss=loss, device=device
    )
    raw = evaluate_raw(
        kind, train_source, test_source, label_budget=labels, seed=seed, device=device
    )
    if as_json:
        facts = {"model": evaluation.facts(), "raw": raw.facts()}
        print(json.dumps({"vector_digest": found.vector.digest, "seed": seed, **facts}, indent=2))
        return
    rows = [Row("raw samples", raw), Row(checkpoint.name, evaluation, highlight=True)]
    note = (
        f"{evaluation.train_images:,} labels, {evaluation.test_images:,} test images, seed {seed}"
    )
    print_results(Results(rows, notes=[note]))
