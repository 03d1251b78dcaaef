"""`gobelin sovereign build`: a region's own model from one TOML, or from options alone."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gobelin.client.options import Key, Unverified
from gobelin.shared.options import AsJsonLines

if TYPE_CHECKING:
    from gobelin.client.sovereign.package import SovereignModel
    from gobelin.client.sovereign.settings import BuildSettings

Home = Annotated[Path, typer.Option(help="The region's folder: its key, the pinned ca.pem.")]
DEFAULT_HOME = Path("region")


def build(
    settings: Annotated[
        Path | None, typer.Argument(help="BUILD.toml; `gobelin sovereign example` prints one.")
    ] = None,
    release: Annotated[Path | None, typer.Option(help="Release folder.")] = None,
    data: Annotated[Path | None, typer.Option(help="The region's samples.")] = None,
    test: Annotated[
        Path | None, typer.Option(help="Labelled test samples; else a part of --data is held out.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder the model is written to.")] = None,
    method: Annotated[
        str | None,
        typer.Option(help="auto, linear, attentive, lora, partial, full or pretrain."),
    ] = None,
    key: Key = None,
    unverified: Unverified = False,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="TABLE.KEY=VALUE", help="Any other setting, over the TOML; repeatable."
        ),
    ] = None,
    home: Home = DEFAULT_HOME,
    as_json: AsJsonLines = False,
) -> None:
    """Build a region's own model on a release, sign it and write it. Killed, it goes on.

    Paths in the TOML are looked for from its folder, those of options from here.
    """
    # Late, so that --help need not wait for torch.
    from gobelin.client.sovereign.build import build as make
    from gobelin.client.sovereign.watch import BuildWatch

    paths = {"release": release, "data": data, "test": test, "out": out, "key": key}
    said: dict[str, Any] = {name: str(path) for name, path in paths.items() if path is not None}
    said |= {"method": method} if method else {}
    said |= {"unverified": True} if unverified else {}
    wanted = read_build(settings, said, set_ or [])
    with BuildWatch(as_json) as watch:
        model = make(wanted, home, watch.on_progress)
    print_model(model, as_json)


def example() -> None:
    """Print a documented BUILD.toml with every setting at its default."""
    from gobelin.client.sovereign.settings import example as text

    print(text(), end="")


def read_build(path: Path | None, said: dict[str, Any], assignments: list[str]) -> BuildSettings:
    """The settings of a TOML, if any, under those of options; raises ConfigError."""
    from gobelin.client.sovereign.settings import BuildSettings, at_folder
    from gobelin.shared.errors import ConfigError
    from gobelin.shared.settings import check_settings, parse_assignments

    values: dict[str, Any] = {}
    if path is not None:
        try:
            values = at_folder(tomllib.loads(path.read_text(encoding="utf-8")), path.parent)
        except FileNotFoundError:
            remedy = "`gobelin sovereign example` prints one"
            raise ConfigError(f"{path} does not exist", remedy) from None
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise ConfigError(
                f"{path} cannot be read: {error}", "mend that line, or its permissions"
            ) from None
    for table, keys in parse_assignments(assignments).items():
        own = values.get(table)
        values[table] = {**own, **keys} if isinstance(own, dict) else keys
    return check_settings(BuildSettings, values | said, str(path or "the build"))


def print_model(model: SovereignModel, as_json: bool) -> None:
    """What was built, in a line or as JSON."""
    lineage, found = model.lineage, model.lineage.evaluation
    if as_json:
        told = {"event": "built", "model": str(model.folder), "digest": model.digest}
        facts = lineage.model_dump(mode="json", exclude={"files", "format"})
        print(json.dumps({**told, "task": model.task, "key": model.signed_by, **facts}))
        return
    print(f"a {model.task} model of {lineage.region}, built by {lineage.method}:")
    if "accuracy" in found:
        what = f"{found['samples']:,} {found['on']} samples told right"
        print(f"  {found['accuracy']:.1f} % of {what}, {len(model.class_names)} classes")
    if not found.get("tune", {}).get("taken", True):
        print("  fine-tuning gained nothing clear on held-out labels and was not taken")
    if "pretrain" in found:
        loss = found["pretrain"]
        print(f"  held-out loss {loss['loss_before']:.4g} before, {loss['loss']:.4g} after")
    _print_report(found.get("report", {}).get("figures", {}))
    if not lineage.release.verified:
        print("  on a checkpoint that nobody has verified")
    print(f"saved to {model.folder}, signed by {model.signed_by[:16]}…")


def _print_report(figures: dict[str, dict[str, float]]) -> None:
    """What the report says of leads and losses; all of it is in report.html."""
    told = {"points_lost_general": "points of general capability lost"}
    for name, figure in figures.items():
        if name.startswith("gain_over_") or name in told:
            what = told.get(name, f"points over {name.removeprefix('gain_over_')}")
            value, low, high = (f"{figure[key]:+.1f}" for key in ("value", "low", "high"))
            print(f"  {value} {what} ({low} to {high})")
