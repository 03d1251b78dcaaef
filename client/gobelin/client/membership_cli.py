"""Commands of `gobelin node` about belonging: join a federation, see its roster, leave it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gobelin.client.options import DEFAULT_HOME, Home
from gobelin.shared.options import AsJsonLines

if TYPE_CHECKING:
    from gobelin.client.home import NodeSettings

GiveUp = Annotated[
    float, typer.Option(min=0, help="Seconds to wait for a silent aggregator; 0: for ever.")
]


def add_to(app: typer.Typer) -> None:
    """Put these commands into the node's group."""
    for command in (join, roster, leave):
        app.command()(command)


def join(
    data: Annotated[Path, typer.Option(help="Private data: a folder or a file; they stay here.")],
    invite: Annotated[
        str, typer.Argument(help="The invite; with --invite-file it stays out of the history.")
    ] = "",
    invite_file: Annotated[
        Path | None, typer.Option(help="A file with the invite; - for standard input.")
    ] = None,
    modality: Annotated[
        str | None, typer.Option(help="Of the data, where the recipe has several.")
    ] = None,
    node: Annotated[str, typer.Option(help="Name of this node; the member's if left out.")] = "",
    home: Home = DEFAULT_HOME,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, …")] = "auto",
    precision: Annotated[str, typer.Option(help="auto, fp32 or bf16.")] = "auto",
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0 for all.")] = 0,
    proxy: Annotated[
        str | None, typer.Option(help="HTTP proxy on the way; else what https_proxy says.")
    ] = None,
    moments: Annotated[
        bool, typer.Option(help="Send moments of projections where the federation asks for them.")
    ] = True,
    order: Annotated[
        str, typer.Option(help="Of the data: private, or plan, which anybody can repeat.")
    ] = "private",
    give_up: GiveUp = 60.0,
    as_json: AsJsonLines = False,
) -> None:
    """Join the federation of an invite; killed at any point, the same command goes on.

    Makes the node's keys here and ends ready for `gobelin node run`.
    """
    from gobelin.client.home import NodeHome
    from gobelin.client.join import Joining, read_invite
    from gobelin.shared.files import sweep
    from gobelin.shared.locks import sole_owner
    from gobelin.shared.signals import Stopped, stop_on_signals

    shown = read_invite(invite, invite_file)

    def settle(name: str, member: str) -> NodeSettings:
        from gobelin.client.founding import settings_from_options  # torch

        values = {
            "member": member,
            "node": name,
            "aggregator": shown.fleet,
            "data": {"path": str(data.resolve()), "modality": modality, "order": order},
            "compute": {"device": device, "precision": precision, "threads": threads},
            "egress": {"moments": moments},
            "network": {"proxy": proxy},
        }
        return settings_from_options(values)[0]

    def say(line: str) -> None:
        if not as_json:
            print(line, flush=True)

    place = NodeHome(home)
    try:
        with stop_on_signals():
            joining = Joining(place, shown, node, say, proxy)
            joining.require_new_or_mine()
            with sole_owner(home):
                sweep(home)
                joined = joining.run(settle, give_up or math.inf)
    except Stopped:
        say("Stopped. The same command goes on.")
        raise typer.Exit(130) from None
    if as_json:
        facts = {"node": joined.node, "member": joined.member, "federation": joined.federation}
        print(json.dumps({**facts, "home": str(home), "words": joined.words}))
        return
    print(f"Node {joined.node!r} of {joined.member!r} has joined {joined.federation!r}. Now:")
    print(f"  gobelin node run --home {home}")


def roster(home: Home = DEFAULT_HOME, as_json: AsJsonLines = False) -> None:
    """Show who is in the federation, from the log the aggregator has signed."""
    from gobelin.client.home import NodeHome
    from gobelin.client.membership import Membership

    log = Membership(NodeHome(home)).roster()
    for record in log.current.values():
        facts = {"member": record.member, "node": record.node, "role": record.role}
        print(json.dumps(facts) if as_json else f"{record.member}  {record.node}  {record.role}")
    if not as_json:
        print(f"{len(log.records)} records, all signed; the last is {log.head[:16]}…")


def leave(home: Home = DEFAULT_HOME, give_up: GiveUp = 60.0, as_json: AsJsonLines = False) -> None:
    """Leave the federation for good, with receipts for what this node gave; stop `run` first."""
    from gobelin.client.home import NodeHome, require_member
    from gobelin.client.membership import Membership
    from gobelin.shared.files import sweep
    from gobelin.shared.locks import sole_owner

    place = NodeHome(home)
    place.settings()
    require_member(place)

    def say(line: str) -> None:
        if not as_json:
            print(line, flush=True)

    with sole_owner(home):
        sweep(home)
        confirmed = Membership(place).leave(give_up or math.inf, say)
    if as_json:
        facts = {"node": confirmed.node, "receipts": confirmed.receipts, "round": confirmed.round}
        print(json.dumps({**facts, "exit": str(place.exit)}))
        return
    print(
        f"Left {confirmed.federation!r} after round {confirmed.round}; {confirmed.receipts} "
        f"receipts, the record of leaving and the consensus digest are in {place.exit}"
    )
