"""What other programs see of a node: metrics for Prometheus, curves for TensorBoard."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from gobelin.client.options import DEFAULT_HOME, Home
from gobelin.shared.metrics_cli import serve_metrics
from gobelin.shared.options import AsJson, Host, Port, TlsCertificate, TlsKey, TokenFile


def add_to(app: typer.Typer) -> None:
    """Put these commands into the node's group."""
    for command in (metrics, tensorboard):
        app.command()(command)


def metrics(
    home: Home = DEFAULT_HOME,
    host: Host = "127.0.0.1",
    port: Port = 9095,
    token_file: TokenFile = None,
    tls_certificate: TlsCertificate = None,
    tls_key: TlsKey = None,
    as_json: AsJson = False,
) -> None:
    """Answer your own Prometheus at /metrics, until stopped."""
    from gobelin.client.home import NodeHome
    from gobelin.client.metrics import FAMILIES, labels_of
    from gobelin.client.observer import Observer

    observer = Observer(NodeHome(home))
    tls = (tls_certificate, tls_key)
    serve_metrics(FAMILIES, observer.look, labels_of, (host, port), token_file, tls, as_json)


def tensorboard(
    to: Annotated[Path, typer.Option(help="Log folder; what is there already is gone on with.")],
    home: Home = DEFAULT_HOME,
    as_json: AsJson = False,
) -> None:
    """Write this node's curves as TensorBoard's event files; repeat it for more."""
    from gobelin.client.home import NodeHome
    from gobelin.client.observer import Observer
    from gobelin.client.page.curves import curves_of
    from gobelin.shared.event_files import points_of, write_points

    overview = Observer(NodeHome(home)).look()
    times = {view.round: view.at for view in overview.rounds}
    added = write_points(to / overview.node, points_of(curves_of(overview), times))
    line = f"{added} new points in {to}; see them by: tensorboard --logdir {to}"
    print(json.dumps({"folder": str(to), "points": added}) if as_json else line)
