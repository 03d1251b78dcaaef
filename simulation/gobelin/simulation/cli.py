"""`gobelin simulate`: a whole federation on this machine."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from gobelin.shared.options import AsJsonLines

app = typer.Typer(add_completion=False)


@app.command()
def simulate(
    home: Annotated[Path, typer.Option(help="The study's folder.")] = Path("study"),
    members: Annotated[int | None, typer.Option(min=1, help="Members, a node each.")] = None,
    skew: Annotated[
        str | None, typer.Option(help="How images are shared out: even, classes, dirichlet:ALPHA.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Images to share out; unset: Fashion-MNIST.")
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(help="Built-in recipe, or a path to a .toml.")
    ] = None,
    rounds: Annotated[int | None, typer.Option(min=1, help="How many; unset: 5.")] = None,
    local_steps: Annotated[
        int | None, typer.Option(min=1, help="H, a node's steps a round.")
    ] = None,
    codec: Annotated[
        str | None, typer.Option(help="What nodes encode by: fp32, bf16, int8, int4 or topk.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="More of federation.toml, such as outer.kind=nesterov; repeatable."
        ),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(min=1, help="CPU threads of a node; cores / threads train at once."),
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, auto, cuda, …")] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Of model, shares and plans; unset: 0.")
    ] = None,
    as_json: AsJsonLines = False,
) -> None:
    """Run a federation of simulated members; run it again on the same --home to continue."""
    from gobelin.server.progress import Progress
    from gobelin.shared.logs import logged, pick_stream
    from gobelin.shared.settings import parse_assignments
    from gobelin.shared.signals import Stopped
    from gobelin.simulation.study import StudyHome, open_study
    from gobelin.simulation.supervisor import Supervisor, require_ray

    require_ray()
    rows = {"rounds": rounds, "local_steps": local_steps, "codec": codec}
    short = [f"rounds.{key}={value}" for key, value in rows.items() if value is not None]
    federation = parse_assignments([*short, *(settings or [])])
    if probe := federation.get("policy", {}).get("probe"):
        federation["policy"]["probe"] = str(Path(probe).resolve())
    options = {
        "members": members,
        "skew": skew,
        "data": data and str(data.resolve()),
        "recipe": recipe,
        "threads": threads,
        "device": device,
        "seed": seed,
        "federation": federation or None,
    }
    place = StudyHome(home)
    study = open_study(place, {key: value for key, value in options.items() if value is not None})
    aggregator, stream = place.aggregator.settings(), pick_stream(None, as_json)
    logs = logged(
        aggregator.logs, stream, sys.stdout, role="supervisor", federation=aggregator.name
    )
    with Progress(place.aggregator, as_json) as progress, logs:
        progress.say(
            f"{study.members} members ({study.skew}, seed {study.seed}) of {study.recipe!r}, "
            f"{study.actors} train at once"
        )
        try:
            Supervisor(place, progress.on_event).run()
            progress.say(
                f"Measure it: gobelin evaluate probe {place.last_release()} --data … --test …"
            )
        except Stopped:
            progress.say(f"Stopped. `gobelin simulate --home {home}` continues.")
