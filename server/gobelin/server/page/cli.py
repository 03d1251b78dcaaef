"""`gobelin aggregator page`: the aggregator's home, for a browser."""

from __future__ import annotations

from typing import Annotated

import typer

from gobelin.server.options import DEFAULT_HOME, Home
from gobelin.shared.options import AsJson, TlsCertificate, TlsKey, TokenFile
from gobelin.shared.pages.serving import require_page, serve_page

PORT = 9094


def page(
    home: Home = DEFAULT_HOME,
    host: Annotated[str | None, typer.Option(help="Address to listen on; else page.host.")] = None,
    port: Annotated[
        int | None,
        typer.Option(
            help=f"To listen on; 0 picks a free one. Else page.port, or {PORT}.", min=0, max=65535
        ),
    ] = None,
    token_file: TokenFile = None,
    tls_certificate: TlsCertificate = None,
    tls_key: TlsKey = None,
    as_json: AsJson = False,
) -> None:
    """Show the federation in a browser, read-only.

    It reads the home and nothing else, so it may run beside `up`, and be stopped at any time.
    """
    require_page()
    from gobelin.server.home import AggregatorHome
    from gobelin.server.page.inspector import Inspector
    from gobelin.server.page.server import make_page

    place = AggregatorHome(home)
    told = place.settings().page
    where = (host or told.host, (told.port or PORT) if port is None else port)
    file = token_file or (place.folder / told.token_file if told.token_file else None)
    inspector = Inspector(place)
    try:
        serve_page(
            str(home),
            lambda hosts, token: make_page(place, hosts, token, inspector),
            where,
            file,
            (tls_certificate, tls_key),
            as_json,
        )
    finally:
        inspector.close()
