"""What other programs see of an aggregator: metrics for Prometheus, curves for TensorBoard."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from gobelin.server.options import DEFAULT_HOME, Home
from gobelin.shared.metrics_cli import serve_metrics
from gobelin.shared.options import AsJson, Host, Port, TlsCertificate, TlsKey, TokenFile


def add_to(app: typer.Typer) -> None:
    """Put these commands into the aggregator's group."""
    for command in (metrics, tensorboard, renew_certificate):
        app.command()(command)


def metrics(
    home: Home = DEFAULT_HOME,
    host: Host = "127.0.0.1",
    port: Port = 9094,
    token_file: TokenFile = None,
    tls_certificate: TlsCertificate = None,
    tls_key: TlsKey = None,
    as_json: AsJson = False,
) -> None:
    """Answer Prometheus at /metrics, until stopped; the page does so as well."""
    from gobelin.server.home import AggregatorHome
    from gobelin.server.metrics import FAMILIES, labels_of
    from gobelin.server.observer import Observer

    observer = Observer(AggregatorHome(home))
    tls = (tls_certificate, tls_key)
    serve_metrics(FAMILIES, observer.look, labels_of, (host, port), token_file, tls, as_json)


def tensorboard(
    to: Annotated[Path, typer.Option(help="Log folder; what is there already is gone on with.")],
    home: Home = DEFAULT_HOME,
    as_json: AsJson = False,
) -> None:
    """Write the curves of all sealed rounds as TensorBoard's event files; repeat it for more."""
    from gobelin.server.details import member_detail
    from gobelin.server.home import AggregatorHome
    from gobelin.server.observer import Observer
    from gobelin.server.page.curves import curves_of, curves_of_member
    from gobelin.shared.event_files import points_of, write_points

    observer = Observer(AggregatorHome(home))
    overview = observer.look()
    times = {point.round: point.sealed for point in overview.history}
    added = write_points(to / overview.federation, points_of(curves_of(overview), times))
    for member in overview.members:
        charts = curves_of_member(member_detail(observer, member.name))
        folder = to / f"{overview.federation}-members" / member.name
        added += write_points(folder, points_of(charts, times))
    line = f"{added} new points in {to}; see them by: tensorboard --logdir {to}"
    print(json.dumps({"folder": str(to), "points": added}) if as_json else line)


def renew_certificate(home: Home = DEFAULT_HOME, as_json: AsJson = False) -> None:
    """Sign the server's certificate anew; nodes, which pin the CA, notice nothing."""
    from gobelin.server.places import Places
    from gobelin.shared.keys import renew_server_certificate

    places = Places(home)
    places.require()
    end = renew_server_certificate(places.tls).isoformat()
    if as_json:
        print(json.dumps({"expires": end}))
        return
    print(f"The server's certificate holds until {end}. A running aggregator shows it once it is")
    print(f"started again: gobelin aggregator up --home {home}")
