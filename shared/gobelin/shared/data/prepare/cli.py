"""`gobelin data prepare`: public data sets in the formats that sources read, one command each."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from gobelin.shared.options import AsJson

app = typer.Typer(add_completion=False, no_args_is_help=True)
prepare = typer.Typer(no_args_is_help=True)
app.add_typer(prepare, name="prepare")

Out = Annotated[Path, typer.Option(help="Folder to write into.")]
From = Annotated[Path | None, typer.Option("--from", help="The package file, fetched by you.")]
Episodes = Annotated[int, typer.Option(help="How many (of each region, if split).", min=1)]
Steps = Annotated[int, typer.Option(help="Actions in an episode.", min=1)]
Seed = Annotated[int, typer.Option(help="Of the episodes.")]


class Region(StrEnum):
    """What to split by, where regions are the one choice."""

    REGION = "region"


class Subject(StrEnum):
    """What to split by, where subjects are the one choice."""

    SUBJECT = "subject"


class TextLabel(StrEnum):
    """What the label of a text is."""

    ARTICLE = "article"
    LANGUAGE = "language"


ByRegion = Annotated[Region | None, typer.Option("--split-by", help="A folder for each.")]


@app.callback()
def data() -> None:
    """Prepare public data sets."""


@prepare.callback()
def data_sets() -> None:
    """Bring a public data set into a format that nodes read."""


@prepare.command("fashion-mnist")
def fashion_mnist(
    out: Out,
    source: Annotated[
        Path | None, typer.Option("--from", help="Folder with the four official files.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """70,000 pictures of clothes, 10 classes: IDX files in train/ and test/."""
    from gobelin.shared.data.fashion_mnist import prepare_fashion_mnist

    _say(prepare_fashion_mnist(source, out), as_json)


@prepare.command()
def udhr(
    out: Out,
    source: From = None,
    split_by: ByRegion = None,
    label: Annotated[TextLabel, typer.Option(help="The label of a text.")] = TextLabel.ARTICLE,
    as_json: AsJson = False,
) -> None:
    """The declaration of human rights in 500 languages: Parquet with a text column."""
    from gobelin.shared.data.prepare.udhr import prepare_udhr

    _say(prepare_udhr(source, out, label.value, split_by is not None), as_json)


@prepare.command()
def watch(
    out: Out,
    source: From = None,
    split_by: Annotated[
        Subject | None, typer.Option("--split-by", help="A folder for each.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """A smartwatch's motion in 7 exercises of 10 subjects, 50 Hz: Parquet, a column a channel."""
    from gobelin.shared.data.prepare.watch import prepare_watch

    _say(prepare_watch(source, out, split_by is not None), as_json)


@prepare.command("push-t")
def push_t(
    out: Out, episodes: Episodes = 500, steps: Steps = 100, seed: Seed = 0, as_json: AsJson = False
) -> None:
    """Push-T, 64 x 64 pixels: npz episodes, half of them pushing, half wandering."""
    from gobelin.shared.data.prepare.worlds import prepare_push_t

    _say(prepare_push_t(out, episodes, steps, seed), as_json)


@prepare.command("two-room")
def two_room(
    out: Out,
    episodes: Episodes = 2000,
    steps: Steps = 32,
    seed: Seed = 0,
    split_by: ByRegion = None,
    as_json: AsJson = False,
) -> None:
    """Two rooms and a door, 32 x 32 pixels: npz episodes."""
    from gobelin.shared.data.prepare.worlds import prepare_two_room

    _say(prepare_two_room(out, episodes, steps, seed, split_by is not None), as_json)


@prepare.command()
def weaves(
    out: Out,
    images: Annotated[int, typer.Option(help="Of each mill, to train on.", min=1)] = 2000,
    seed: Annotated[int, typer.Option(help="Of the pictures.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Cloth drawn here, 6 weaves, 28 x 28 pixels: IDX files in MILL/train and test, 4 mills."""
    from gobelin.shared.data.prepare.weaves import prepare_weaves

    _say(prepare_weaves(out, images, seed), as_json)


def _say(facts: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(facts, indent=2))
        return
    rest = ", ".join(f"{name} {value}" for name, value in facts.items() if name != "out")
    print(f"{facts['out']}: {rest}")
