"""`gobelin worldmodel`: plan with a world model, roll it out, ask what surprises it, serve it."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gobelin.shared.announce import announce
from gobelin.shared.options import (
    AsJson,
    Checkpoint,
    Device,
    Host,
    MaxMb,
    Port,
    TlsCertificate,
    TlsKey,
)

if TYPE_CHECKING:
    from gobelin.shared.worldmodel.plan_settings import PlanSettings

# Imports are late, so that --help need not wait for torch.
app = typer.Typer(add_completion=False, no_args_is_help=True)


class PlannerName(StrEnum):
    """A planner."""

    CEM = "cem"
    ICEM = "icem"
    MPPI = "mppi"
    GRADIENT = "gradient"


class WorldName(StrEnum):
    """A world that is simulated here."""

    TWO_ROOM = "two-room"


Start = Annotated[Path, typer.Option(help="Observation to start from: .npy or a picture.")]
Modality = Annotated[str | None, typer.Option(help="Of a recipe with several world models.")]
Readout = Annotated[
    Path | None,
    typer.Option(help="Episodes with `states`, which keep_out and keep_within then speak of."),
]


@app.callback()
def worldmodel() -> None:
    """Ask a world model what would happen, what to do, and what is plausible."""


@app.command()
def plan(
    checkpoint: Checkpoint,
    start: Start,
    goal: Annotated[Path, typer.Option(help="Observation to reach: .npy or a picture.")],
    planner: Annotated[PlannerName | None, typer.Option(help="cem unless the file says.")] = None,
    horizon: Annotated[int | None, typer.Option(help="Steps; 12 unless the file says.")] = None,
    bounds: Annotated[
        str | None, typer.Option(help="Of actions: 0.1 (±), or low:high of each: -1:1,0:2.")
    ] = None,
    settings: Annotated[
        Path | None, typer.Option(help="TOML: planner, bounds, costs, constraints.")
    ] = None,
    readout: Readout = None,
    seed: Annotated[int | None, typer.Option(help="Of the search; 0 unless the file says.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write the actions to this .npy.")] = None,
    modality: Modality = None,
    device: Device = "cpu",
    as_json: AsJson = False,
) -> None:
    """Find actions that lead from one observation to another and keep every constraint."""
    from gobelin.shared.worldmodel.answers import planned_facts
    from gobelin.shared.worldmodel.observation import read_observation
    from gobelin.shared.worldmodel.oracle import open_oracle

    oracle = open_oracle(checkpoint, modality, device, readout)
    form = oracle.model.form
    width = form.actions
    given = {"planner": planner and planner.value, "horizon": horizon, "seed": seed}
    chosen = _plan_settings(settings, given, bounds, width)
    found = oracle.plan(read_observation(start, form), read_observation(goal, form), chosen)
    if out is not None:
        _write_npy(out, found.actions.numpy())
    if as_json:
        print(json.dumps(planned_facts(oracle, found), indent=2))
        return
    from rich.console import Console

    assert found.foreseen.to_goal is not None
    rows = [
        [str(step), "  ".join(f"{a:+.4f}" for a in action), f"{away:.4f}"]
        for step, (action, away) in enumerate(
            zip(found.actions.tolist(), found.foreseen.to_goal[0].tolist(), strict=True)
        )
    ]
    Console().print(_table(["step", "action", "to goal"], rows))
    print(
        f"cost {found.cost:.4f}, every constraint kept, distance to the goal "
        f"{found.start_to_goal:.4f} → {found.foreseen.to_goal[0, -1]:.4f}"
    )


@app.command()
def rollout(
    checkpoint: Checkpoint,
    start: Start,
    actions: Annotated[Path, typer.Option(help=".npy of actions (H, A), or plans (S, H, A).")],
    goal: Annotated[Path | None, typer.Option(help="Observation to measure to.")] = None,
    readout: Readout = None,
    out: Annotated[Path | None, typer.Option(help="Write latents and distances to a .npz.")] = None,
    modality: Modality = None,
    device: Device = "cpu",
    as_json: AsJson = False,
) -> None:
    """Foresee where actions lead: latents, and distances from the start and to a goal."""
    from gobelin.shared.worldmodel.answers import foreseen_facts
    from gobelin.shared.worldmodel.observation import read_actions, read_observation
    from gobelin.shared.worldmodel.oracle import open_oracle

    oracle = open_oracle(checkpoint, modality, device, readout)
    form = oracle.model.form
    target = None if goal is None else read_observation(goal, form)
    found = oracle.rollout(read_observation(start, form), read_actions(actions, form), target)
    facts = foreseen_facts(oracle, found)
    if out is not None:
        _write_npz(out, {"latents": found.latents.numpy(), **facts})
    if as_json:
        print(json.dumps(facts, indent=2))
        return
    from rich.console import Console

    heads = ["plan", "step", "from start"] + ([] if target is None else ["to goal"])
    columns = [found.from_start] + ([] if found.to_goal is None else [found.to_goal])
    rows = [
        [str(plan), str(step), *(f"{float(column[plan, step]):.4f}" for column in columns)]
        for plan in range(found.from_start.shape[0])
        for step in range(found.from_start.shape[1])
    ]
    Console().print(_table(heads, rows))


@app.command()
def surprise(
    checkpoint: Checkpoint,
    data: Annotated[Path, typer.Option(help="Episodes: .npz or HDF5 files.")],
    top: Annotated[int, typer.Option(help="Most surprising episodes to show.", min=1)] = 10,
    csv: Annotated[
        Path | None, typer.Option(help="Write every step's energy: episode,step,energy.")
    ] = None,
    modality: Modality = None,
    device: Device = "cpu",
    as_json: AsJson = False,
) -> None:
    """Tell which recorded episodes the model finds implausible, and where in them."""
    from gobelin.shared.evaluation.surprise import open_episodes, surprises
    from gobelin.shared.worldmodel.answers import surprise_facts
    from gobelin.shared.worldmodel.oracle import open_oracle

    model = open_oracle(checkpoint, modality, device).model
    found = list(surprises(model, open_episodes(model, data), device))
    ranked = sorted(found, key=lambda episode: -episode.peak)[:top]
    if csv is not None:
        _write_csv(csv, [(s.episode, t, e) for s in found for t, e in enumerate(s.energy.tolist())])
    if as_json:
        facts = {
            "most_surprising": [s.episode for s in ranked],
            "episodes": [{"episode": s.episode, **surprise_facts(s.energy)} for s in found],
        }
        print(json.dumps(facts, indent=2))
        return
    from rich.console import Console

    rows = [[s.episode, f"{s.peak:.4f}", str(s.peak_step), f"{s.mean:.4f}"] for s in ranked]
    Console().print(_table(["episode", "peak energy", "at step", "mean"], rows))


@app.command()
def expectation(
    checkpoint: Checkpoint,
    world: Annotated[WorldName, typer.Option(help="Where physics is broken.")],
    episodes: Annotated[int, typer.Option(help="Shown with each violation.", min=2)] = 100,
    seed: Annotated[int, typer.Option(help="Of the episodes.")] = 0,
    modality: Modality = None,
    device: Device = "cpu",
    as_json: AsJson = False,
) -> None:
    """Break physics and see whether the model is surprised, by a paired one-sided t-test."""
    from gobelin.shared.evaluation.expectation import (
        Setup,
        require_two_room,
        two_room_violations,
    )
    from gobelin.shared.evaluation.expectation import expectation as judge
    from gobelin.shared.worldmodel.oracle import open_oracle

    model = open_oracle(checkpoint, modality, device).model
    setup = Setup(episodes=episodes, seed=seed)
    found = judge(model, two_room_violations(require_two_room(model), setup), setup, device)
    if as_json:
        facts = {name: taken.facts() for name, taken in found.items()}
        print(json.dumps({"world": world.value, "seed": seed, "violations": facts}, indent=2))
        return
    from rich.console import Console

    rows = [
        [
            name,
            f"{taken.untouched:.4f}",
            f"{taken.violated:.4f}",
            f"{taken.noticed:.0f}",
            f"{taken.auroc:.3f}",
            f"{taken.test.t:.2f}",
            f"{taken.test.p:.2g}",
        ]
        for name, taken in found.items()
    ]
    heads = ["violation", "untouched", "violated", "noticed %", "AUROC", "t", "p"]
    Console().print(_table(heads, rows))


@app.command()
def serve(
    checkpoint: Checkpoint,
    host: Host = "127.0.0.1",
    port: Port = 0,
    max_mb: MaxMb = 16.0,
    readout: Readout = None,
    modality: Modality = None,
    tls_certificate: TlsCertificate = None,
    tls_key: TlsKey = None,
    device: Device = "cpu",
    as_json: AsJson = False,
) -> None:
    """Answer /plan, /rollout and /surprise over HTTP, without authentication, until stopped."""
    from gobelin.shared.errors import ConfigError
    from gobelin.shared.worldmodel.oracle import open_oracle

    try:
        from gobelin.shared import http_server
        from gobelin.shared.worldmodel.server import make_app
    except ImportError as error:
        what = f"serving needs FastAPI and uvicorn, and {error.name} is not installed"
        raise ConfigError(what, "pip install 'gobelin[serve]'") from None
    certificate = http_server.Certificate.of(tls_certificate, tls_key)
    oracle = open_oracle(checkpoint, modality, device, readout)
    form = oracle.model.form
    about = {"model": checkpoint.resolve().name, "observation": form.shape, "actions": form.actions}
    hosts = http_server.trusted_hosts(host)
    made = make_app(oracle, about, int(max_mb * 1e6), hosts)
    listening = http_server.listen(host, port)
    url = http_server.url_of(host, listening, certificate)
    then = f"see {url}/openapi.json for what it answers"
    announce({"url": url, **about}, f"serving {checkpoint} at {url}", then, as_json)
    if not http_server.is_loopback(host):
        typer.echo("whoever reaches this address can ask: there is no authentication", err=True)
    http_server.serve(made, listening, certificate)


def _plan_settings(
    path: Path | None, given: dict[str, Any], bounds: str | None, width: int
) -> PlanSettings:
    """What the file says, and above it the options that were given; raises ConfigError."""
    from gobelin.shared.settings import check_settings, read_settings
    from gobelin.shared.worldmodel.plan_settings import PlanSettings, parse_bounds

    said = PlanSettings() if path is None else read_settings(PlanSettings, path)
    chosen = said.model_dump() | {k: v for k, v in given.items() if v is not None}
    if bounds is not None:
        chosen |= parse_bounds(bounds, width)
    return check_settings(PlanSettings, chosen, "the options")


def _table(heads: list[str], rows: list[list[str]]) -> Any:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE, pad_edge=False)
    for column, head in enumerate(heads):
        table.add_column(head, justify="right" if column else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def _write_npy(path: Path, values: Any) -> None:
    import numpy as np

    from gobelin.shared.files import file_atomic

    with file_atomic(path) as tmp, tmp.open("wb") as stream:
        np.save(stream, values)


def _write_npz(path: Path, arrays: dict[str, Any]) -> None:
    import numpy as np

    from gobelin.shared.files import file_atomic

    with file_atomic(path) as tmp, tmp.open("wb") as stream:
        np.savez(stream, **arrays)


def _write_csv(path: Path, rows: list[tuple[str, int, float]]) -> None:
    import csv

    from gobelin.shared.files import file_atomic

    with file_atomic(path) as tmp, tmp.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["episode", "step", "energy"])
        writer.writerows(rows)
