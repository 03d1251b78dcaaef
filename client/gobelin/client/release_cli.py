"""`gobelin release …`: see which releases there are, get one, verify one."""

from __future__ import annotations

import datetime
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gobelin.shared.options import AsJson
from gobelin.shared.shelf import MAX_GB

if TYPE_CHECKING:
    from gobelin.client.home import NodeHome
    from gobelin.client.release_source import ReleaseSource
    from gobelin.shared.shelf import Announced

# Imports are late, so that --help need not wait for torch.
app = typer.Typer(add_completion=False, no_args_is_help=True)

Home = Annotated[Path, typer.Option(help="The node's folder; any other with --key and --from.")]
From = Annotated[
    Path | None,
    typer.Option("--from", help="A release or a folder of some, such as a USB stick's."),
]
Key = Annotated[
    Path | None, typer.Option(help="The ca.pem you were given; the home's if left out.")
]
Older = Annotated[
    bool, typer.Option("--older", help="Also where a newer one is known, or its time is over.")
]
DEFAULT_HOME = Path("node")


@app.callback()
def release() -> None:
    """Get consensus releases, whole and verified, from the aggregator or from a folder."""


@app.command("list")
def list_releases(
    home: Home = DEFAULT_HOME,
    source: From = None,
    cached: Annotated[
        bool, typer.Option("--cached", help="Only those that are here; nobody is asked.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show which releases there are, newest first, and which of them are here."""
    from gobelin.client.home import NodeHome
    from gobelin.client.release_store import cached_in

    place = NodeHome(home)
    here = cached_in(place)
    digests = {release.vector_digest for release in here}
    found = here if cached else _source(place, source).releases()
    if as_json:
        rows = [{**one.facts(), "cached": one.vector_digest in digests} for one in found]
        print(json.dumps({"releases": rows}, indent=2, sort_keys=True))
        return
    for one in found:
        print(_row(one, one.vector_digest in digests))
    if not found:
        print("no releases here" if cached else "no release has been published yet")


@app.command()
def get(
    number: Annotated[
        int | None,
        typer.Argument(
            metavar="[ROUND]", help="The round it is of; the newest release if left out."
        ),
    ] = None,
    home: Home = DEFAULT_HOME,
    source: From = None,
    key: Key = None,
    older: Older = False,
    max_gb: Annotated[float, typer.Option(help="Largest release to take.", min=0.001)] = MAX_GB,
    give_up: Annotated[
        float, typer.Option(min=0, help="Seconds to wait for a silent source; 0: for ever.")
    ] = 60.0,
    as_json: AsJson = False,
) -> None:
    """Fetch a release into HOME/releases and verify it; killed at any point, it goes on."""
    from gobelin.client.home import NodeHome
    from gobelin.client.release_store import ReleaseStore
    from gobelin.shared.console import LiveConsole

    place = NodeHome(home)
    store = ReleaseStore(place, key)
    with LiveConsole(as_json, "asking for releases") as console:
        got = store.get(
            _source(place, source),
            number,
            older=older,
            max_gb=max_gb,
            give_up_s=give_up or math.inf,
            say=console.say,
            progress=lambda there, of: console.show(f"{there / 1e6:,.1f} of {of / 1e6:,.1f} MB"),
        )
    if as_json:
        print(json.dumps(got.facts(), sort_keys=True))
        return
    of = got.release.statement
    how = f"{got.fetched:,} bytes fetched" if got.fetched else "it was here"
    print(f"release {of.round} of {of.federation} holds, {of.vector_digest[:12]} ({how})")
    print(f"  {got.folder}")


@app.command()
def verify(
    release: Annotated[
        str, typer.Argument(metavar="[ROUND|FOLDER]", help="The newest that is here if left out.")
    ] = "",
    home: Home = DEFAULT_HOME,
    key: Key = None,
    older: Older = False,
    as_json: AsJson = False,
) -> None:
    """Check a release, by `gobelin verify`'s rules, with this home's key and memory, offline."""
    from gobelin.client.home import NodeHome
    from gobelin.client.release_store import ReleaseStore, cached_in
    from gobelin.shared.errors import StateError

    place = NodeHome(home)
    store = ReleaseStore(place, key)
    if not release:
        here = cached_in(place)
        if not here:
            raise StateError(f"{place.releases} has no release", "run `gobelin release get` first")
        release = str(here[0].round)
    folder = store.folder_of(int(release)) if release.isdecimal() else Path(release)
    found = store.verify(folder, older=older)
    if as_json:
        facts = {"kind": "release", "said": found.said, **found.facts(), "folder": str(folder)}
        print(json.dumps(facts, sort_keys=True))
        return
    print(found.said)


def _source(home: NodeHome, folder: Path | None) -> ReleaseSource:
    from gobelin.client.release_source import FolderSource, ServiceSource

    return ServiceSource(home) if folder is None else FolderSource(folder)


def _row(release: Announced, here: bool) -> str:
    day = datetime.datetime.fromtimestamp(release.issued, datetime.UTC).date()
    until = datetime.datetime.fromtimestamp(release.expires, datetime.UTC).date()
    return (
        f"round {release.round:5d}  {release.vector_digest[:12]}  {release.size / 1e6:10,.1f} MB  "
        f"{day} to {until}  {'here' if here else ''}"
    ).rstrip()
