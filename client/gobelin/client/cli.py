"""`gobelin node …`: found a contributor node and run it."""

from __future__ import annotations

import json
import math
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gobelin.client.options import DEFAULT_HOME, Home
from gobelin.shared.options import AsJsonLines, LogFormat

if TYPE_CHECKING:
    from gobelin.client.home import NodeSettings

app = typer.Typer(
    add_completion=False, no_args_is_help=True, help="Contribute to a federation from private data."
)

policy = typer.Typer(no_args_is_help=True, help="What may leave this node.")
app.add_typer(policy, name="policy")

TORCHRUN = "TORCHELASTIC_RUN_ID"  # a variable that torchrun sets


@app.command()
def init(
    member: Annotated[str, typer.Option(help="The institution this node belongs to.")],
    aggregator: Annotated[str, typer.Option(help="host:port of the aggregator.")],
    ca: Annotated[Path, typer.Option(help="The federation's ca.pem, from its operator.")],
    data: Annotated[Path, typer.Option(help="Private data: a folder or a file; they stay here.")],
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
    seconds_per_round: Annotated[
        float | None, typer.Option(min=0, help="Take fewer local steps than take longer.")
    ] = None,
    max_mb_per_round: Annotated[
        float | None, typer.Option(help="Most megabytes a round's encoded delta may have.")
    ] = None,
    upload_seconds_per_round: Annotated[
        float | None, typer.Option(help="Most seconds it may take at the measured upload rate.")
    ] = None,
    as_json: AsJsonLines = False,
) -> None:
    """Make this node's keys and settings without an invite; nothing is sent anywhere."""
    from gobelin.client.founding import found_from_options

    founded = found_from_options(
        home,
        ca,
        {
            "member": member,
            "node": node or member,
            "aggregator": aggregator,
            "data": {"path": str(data.resolve()), "modality": modality, "order": order},
            "compute": {
                "device": device,
                "precision": precision,
                "threads": threads,
                "seconds_per_round": seconds_per_round,
            },
            "egress": {
                "moments": moments,
                "max_mb_per_round": max_mb_per_round,
                "seconds_per_round": upload_seconds_per_round,
            },
            "network": {"proxy": proxy},
        },
    )
    if as_json:
        print(json.dumps(founded))
        return
    print(f"Founded node {founded['node']!r} in {home} on {founded['data']}.")
    print(f"Send {founded['public_key']} to the aggregator's operator; then:")
    print(f"  gobelin node run --home {home}")


@app.command()
def run(
    home: Home = DEFAULT_HOME,
    give_up: Annotated[
        float, typer.Option(min=0, help="Seconds to wait for a silent aggregator; 0: for ever.")
    ] = 0.0,
    log_format: LogFormat = None,
    as_json: AsJsonLines = False,
) -> None:
    """Take part in rounds until stopped; stop and start it at any time.

    Several GPUs: torchrun --nproc-per-node N --no-python gobelin node run.
    """
    from gobelin.client.home import NodeHome, require_member
    from gobelin.client.membership import kept_up
    from gobelin.client.progress import Progress
    from gobelin.shared.files import sweep
    from gobelin.shared.formats import NODE, upgrade
    from gobelin.shared.garbage import collected
    from gobelin.shared.locks import sole_owner
    from gobelin.shared.logs import kept, logged, pick_stream
    from gobelin.shared.signals import Stopped, stop_on_signals

    place = NodeHome(home)
    settings, stream = place.settings(), pick_stream(log_format, as_json)
    require_member(place)
    who = {"role": "node", "member": settings.member, "node": settings.node}
    if federation := place.pinned("federation"):
        who["federation"] = federation
    if TORCHRUN in os.environ and _followed(settings):
        return
    with (
        Progress(settings.node, stream is not None, home) as progress,
        logged(settings.logs, stream, sys.stdout, **who),
        sole_owner(home),
        kept(place.log_file),
        stop_on_signals(),
    ):
        try:
            progress.say(f"node {settings.node!r} of member {settings.member!r}: starting")
            sweep(home)
            upgrade(home, NODE)
            progress.say(str(settings.egress))
            if settings.privacy is not None:
                progress.say(str(settings.privacy))
            if settings.shadow is not None:
                progress.say(str(settings.shadow))
            from gobelin.client.link import serve

            with kept_up(place, progress.say), collected():
                serve(place, progress.on_status, give_up or math.inf)
            if TORCHRUN in os.environ:
                from gobelin.client.crew import dismiss

                dismiss()
        except Stopped:
            progress.say(f"Stopped. `gobelin node run --home {home}` continues.")


def _followed(settings: NodeSettings) -> bool:
    """Join the processes that torchrun started, and train along until dismissed; False: lead."""
    from gobelin.client.crew import enlist, follow
    from gobelin.client.workbench import pick_device

    if enlist(pick_device(settings.compute)) == 0:
        return False
    follow(settings)
    return True


@app.command()
def egress(home: Home = DEFAULT_HOME, as_json: AsJsonLines = False) -> None:
    """Show all that has left this node, and verify that its record is whole."""
    from gobelin.client.egress_report import print_egress
    from gobelin.client.home import NodeHome

    print_egress(NodeHome(home), as_json)


@policy.command()
def explain(
    plan: Annotated[
        Path | None, typer.Option(help="A round plan; the last one offered if left out.")
    ] = None,
    home: Home = DEFAULT_HOME,
    as_json: AsJsonLines = False,
) -> None:
    """Say what policy.toml makes of a round plan, rule by rule, and why."""
    from gobelin.client.egress_report import print_policy
    from gobelin.client.home import NodeHome

    print_policy(NodeHome(home), plan, as_json)


@app.command()
def accept(
    path: Annotated[Path, typer.Argument(help="A release, or an export of the ledger.")],
    home: Home = DEFAULT_HOME,
    as_json: AsJsonLines = False,
) -> None:
    """Verify a release or a ledger, and remember it: nothing older is accepted afterwards."""
    from gobelin.client.accept import accept_path
    from gobelin.client.home import NodeHome

    told = accept_path(NodeHome(home), path)
    print(json.dumps(told, sort_keys=True) if as_json else told["said"])


@app.command()
def status(home: Home = DEFAULT_HOME, as_json: AsJsonLines = False) -> None:
    """Show what the node is doing, what left it, what counted, and what federating gives it."""
    from gobelin.client.home import NodeHome
    from gobelin.client.status import print_status

    print_status(NodeHome(home), as_json)


@app.command()
def watch(
    home: Home = DEFAULT_HOME,
    every: Annotated[float, typer.Option(min=0.2, help="Seconds between two looks.")] = 2.0,
    as_json: AsJsonLines = False,
) -> None:
    """Keep showing what `status` shows, until stopped: live on a terminal, lines elsewhere."""
    from gobelin.client.home import NodeHome
    from gobelin.client.watch import watch_node

    watch_node(NodeHome(home), every, as_json)


from gobelin.client import forecast_cli, membership_cli, operate_cli, watch_cli  # noqa: E402  parts
from gobelin.client.page.cli import page  # noqa: E402

app.command()(page)
membership_cli.add_to(app)
operate_cli.add_to(app)
forecast_cli.add_to(app)
watch_cli.add_to(app)
