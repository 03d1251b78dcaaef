"""`gobelin aggregator …`: found a federation, admit nodes, run rounds, see how it stands."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from gobelin.server.options import DEFAULT_HOME, Home
from gobelin.shared.options import AsJsonLines, LogFormat

app = typer.Typer(
    add_completion=False, no_args_is_help=True, help="Found a federation and run its rounds."
)


@app.command()
def init(
    name: Annotated[str, typer.Option(help="Name of the federation.")],
    home: Home = DEFAULT_HOME,
    recipe: Annotated[str, typer.Option(help="Built-in recipe, or a path to a .toml.")] = "tiny",
    address: Annotated[
        str, typer.Option(help="host:port that nodes connect to; port 0 picks a free one.")
    ] = "127.0.0.1:9092",
    service_port: Annotated[
        int,
        typer.Option(min=0, max=65535, help="Of joining, roster and releases; 0: the one after."),
    ] = 0,
    rounds: Annotated[int, typer.Option(min=1, help="How many there will be in all.")] = 100,
    local_steps: Annotated[int, typer.Option(min=1, help="H, a node's steps a round.")] = 500,
    warmup_rounds: Annotated[
        int, typer.Option(min=0, help="First rounds of one local step each (post-local SGD).")
    ] = 0,
    quorum: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the members that a round needs.")
    ] = 0.5,
    min_members: Annotated[
        int, typer.Option(min=1, help="Members it needs, whatever the share.")
    ] = 2,
    codec: Annotated[
        str, typer.Option(help="The finest nodes encode by: fp32, bf16, int8, int4 or topk.")
    ] = "fp32",
    broadcast: Annotated[
        str, typer.Option(help="What the consensus is broadcast by: any of the same codecs.")
    ] = "fp32",
    cross_node: Annotated[
        bool, typer.Option(help="Exchange moments: SIGReg then tests the data of all nodes.")
    ] = False,
    outer: Annotated[
        str, typer.Option(help="Outer optimizer: sgd, nesterov, adam or yogi.")
    ] = "sgd",
    outer_lr: Annotated[
        float | None, typer.Option(min=0, help="Outer learning rate; else the optimizer's own.")
    ] = None,
    outer_momentum: Annotated[
        float | None, typer.Option(min=0, help="Outer momentum; else the optimizer's own.")
    ] = None,
    fragments: Annotated[
        int, typer.Option(min=1, help="Parts of the model, of which each round exchanges one.")
    ] = 1,
    rule: Annotated[
        str,
        typer.Option(
            help="Aggregation rule: mean, clipped_mean, trimmed_mean, median, geometric_median "
            "or centered_clipping."
        ),
    ] = "mean",
    cap: Annotated[
        float,
        typer.Option(
            min=0, max=1, help="Largest share that a member may weigh and move the model."
        ),
    ] = 1.0,
    probe: Annotated[
        Path | None, typer.Option(help="Public images that contributions are scored on.")
    ] = None,
    weights: Annotated[
        str, typer.Option(help="equal, or evidence: by what contributions are worth on the probe.")
    ] = "equal",
    release_probe: Annotated[
        Path | None,
        typer.Option(help="Public labelled samples: what heads of one release lose on the next."),
    ] = None,
    sealed: Annotated[
        bool, typer.Option(help="Deltas leave nodes masked: only their sum is ever known.")
    ] = False,
    sealed_threshold: Annotated[
        float,
        typer.Option(
            min=0.5, max=1, help="More than this share of the nodes must stay to the end."
        ),
    ] = 2 / 3,
    archive: Annotated[
        bool, typer.Option(help="Keep contributions as they came, so that rounds can be replayed.")
    ] = False,
    seed: Annotated[
        int, typer.Option(min=0, help="Of the initial model and every round's draws.")
    ] = 0,
    as_json: AsJsonLines = False,
) -> None:
    """Found a federation: CA, server certificate, federation.toml, recipe.toml, initial model."""
    from gobelin.server.founding import Charter, found
    from gobelin.server.rules import DISCARDING

    charter = Charter(
        name=name,
        recipe=recipe,
        address=address,
        seed=seed,
        rounds={
            "rounds": rounds,
            "local_steps": local_steps,
            "warmup_rounds": warmup_rounds,
            "quorum": quorum,
            "min_members": min_members,
            "codec": codec,
            "broadcast": broadcast,
            "cross_node": cross_node,
            **({"sealed": True, "max_staleness": 0} if sealed else {}),
            **({"sealed_threshold": sealed_threshold} if sealed else {}),
            "archive": archive,
        },
        outer={
            "kind": outer,
            "lr": outer_lr,
            "momentum": outer_momentum,
            "fragments": fragments,
        },
        aggregation={"rule": rule},
        policy={
            "cap": cap,
            "weights": weights,
            "probe": probe and str(probe.resolve()),
            **({"collapse_gate": False} if sealed else {}),
        },
        releases={"probe": release_probe and str(release_probe.resolve())},
    )
    founded = found(home, charter, service_port)
    if as_json:
        print(json.dumps(founded))
        return
    print(f"Founded {name!r} in {home} (seed {seed}, {founded['parameters']:,} parameters).")
    if rule in DISCARDING:
        print(
            f"Note: {rule} may discard honest minorities; every round reports whose voice it lost."
        )
    if cross_node:
        print("Note: members are asked for moments of their embeddings; each may decline to.")
    if sealed:
        print(
            "Note: rounds are sealed; nobody sees a member's delta, and nobody can refuse a bad "
            "one: late contributions and the collapse gate are off."
        )
    if weights == "evidence":
        print(
            "Note: evidence favours members whose data are like the probe's; none has less than "
            "half or more than twice the median member's voice, and every round reports who."
        )
    print(f"Nodes connect to {founded['address']} and {founded['service']}. Run the rounds, and")
    print("hand every member an invite; `gobelin node join` is all it takes there:")
    print(f"  gobelin aggregator up --home {home}")
    print(f"  gobelin aggregator invite --home {home} --member NAME")


@app.command()
def admit(
    key: Annotated[Path, typer.Argument(help="The node's public key, node.pub.")],
    member: Annotated[str, typer.Option(help="The institution that owns the node.")],
    node: Annotated[str, typer.Option(help="Its name; the member's if left out.")] = "",
    role: Annotated[str, typer.Option(help="contributor or observer.")] = "contributor",
    home: Home = DEFAULT_HOME,
    as_json: AsJsonLines = False,
) -> None:
    """Put a node on the roster by its node.pub, without an invite (also while up)."""
    from gobelin.server.founding import admit_node
    from gobelin.server.roster import require_role

    require_role(role)
    entry = admit_node(home, key, member, node or member, role)
    told = {"node": entry.name, "member": entry.member, "role": entry.role, "id": entry.id}
    said = f"Admitted node {entry.name!r} of member {entry.member!r}: {entry.id[:16]}…"
    print(json.dumps(told) if as_json else said)


@app.command()
def up(
    home: Home = DEFAULT_HOME, log_format: LogFormat = None, as_json: AsJsonLines = False
) -> None:
    """Run the federation's rounds until the last is sealed; stop and start it at any time."""
    from gobelin.server.home import AggregatorHome
    from gobelin.server.progress import Progress
    from gobelin.server.supervisor import Supervisor
    from gobelin.shared.formats import AGGREGATOR, upgrade
    from gobelin.shared.locks import sole_owner
    from gobelin.shared.logs import logged, pick_stream
    from gobelin.shared.signals import Stopped

    place = AggregatorHome(home)
    place.require()
    settings, stream = place.settings(), pick_stream(log_format, as_json)
    if settings.rounds.sealed:  # else this process, which lives for months, needs no tensors
        from gobelin.server.sealed_policy import require_sealable

        require_sealable(settings, place.recipe())
        place.require_places(place.roster())
    with sole_owner(home):
        upgrade(home, AGGREGATOR)
    logs = logged(settings.logs, stream, sys.stdout, role="supervisor", federation=settings.name)
    with Progress(place, stream is not None) as progress, logs:
        try:
            Supervisor(place, progress.on_event).run()
        except Stopped:
            progress.say(f"Stopped. `gobelin aggregator up --home {home}` continues.")


@app.command()
def export(
    to: Annotated[Path, typer.Option(help="A new folder.")],
    home: Home = DEFAULT_HOME,
    replay: Annotated[
        bool, typer.Option("--replay", help="With every round and the archive, for replays.")
    ] = False,
    as_json: AsJsonLines = False,
) -> None:
    """Write what anybody may have: ledger, releases, roster, and what the next round starts from.

    Also while the aggregator is up.
    """
    from gobelin.server.export import export as write_export
    from gobelin.server.home import AggregatorHome

    told = write_export(AggregatorHome(home), to, replay)
    if as_json:
        print(json.dumps(told, sort_keys=True))
        return
    print(f"Exported {told['rounds']} rounds to {to}. Anybody checks it by")
    print(f"  gobelin verify {to} --key ca.pem")


@app.command()
def take_over(
    exported: Annotated[Path, typer.Argument(help="An export of the aggregator before.")],
    key: Annotated[Path, typer.Option(help="Its ca.pem, as you were given it.")],
    home: Home = DEFAULT_HOME,
    address: Annotated[
        str, typer.Option(help="host:port that nodes connect to; port 0 picks a free one.")
    ] = "127.0.0.1:9092",
    as_json: AsJsonLines = False,
) -> None:
    """Go on with a federation from what its aggregator has exported, with keys of your own."""
    from gobelin.server.takeover import take_over as take
    from gobelin.shared.signing import find_signing_key

    public = find_signing_key(key.read_bytes(), str(key))
    told = take(home, exported, public, address)
    if as_json:
        print(json.dumps(told, sort_keys=True))
        return
    print(f"Took over after round {told['rounds']}. Give members {told['ca']} in place of theirs,")
    print(f"and the address {told['address']}; then: gobelin aggregator up --home {home}")


@app.command()
def evidence(
    file: Annotated[Path, typer.Argument(help="What `gobelin audit leakage --out` wrote.")],
    home: Home = DEFAULT_HOME,
    as_json: AsJsonLines = False,
) -> None:
    """Publish what was measured of a node's updates with every release to come; replaces the last.

    Whoever measured it answers for it.
    """
    from gobelin.server.home import AggregatorHome
    from gobelin.shared.files import write_json
    from gobelin.shared.release.evidence import read_evidence

    place = AggregatorHome(home)
    place.require()
    name, facts = read_evidence(file, place.recipe().digest)
    place.evidence.mkdir(exist_ok=True)
    write_json(place.evidence / name, facts)
    said = f"{name} goes with every release from now on; remove {place.evidence / name} to end that"
    told = {"evidence": name, "file": str(place.evidence / name)}
    print(json.dumps(told) if as_json else said)


@app.command()
def status(
    number: Annotated[
        int | None, typer.Option("--round", min=1, help="Everything of one sealed round instead.")
    ] = None,
    node: Annotated[str, typer.Option(help="Or of one node.")] = "",
    member: Annotated[str, typer.Option(help="Or of one member.")] = "",
    home: Home = DEFAULT_HOME,
    as_json: AsJsonLines = False,
) -> None:
    """Show where the federation stands, and what needs a person."""
    from gobelin.server.home import AggregatorHome
    from gobelin.server.status import print_detail, print_status

    place = AggregatorHome(home)
    if number is not None or node or member:
        print_detail(place, number, node, member, as_json)
    else:
        print_status(place, as_json)


from gobelin.server import operate_cli, roster_cli, watch_cli  # noqa: E402  parts of this group
from gobelin.server.page import cli as page_cli  # noqa: E402

app.command()(page_cli.page)
roster_cli.add_to(app)
operate_cli.add_to(app)
watch_cli.add_to(app)
