"""`gobelin aggregator page`: the aggregator's home, for a browser."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gobelin.server.options import DEFAULT_HOME, Home
from gobelin.shared.options import AsJson, TlsCertificate, TlsKey
from gobelin.shared.pages.serving import require_page, serve_page

PORT = 9094


def page(
    home: Home = DEFAULT_HOME,
    address: Annotated[
        str, typer.Option(help="host:port to listen on; port 0 picks a free one.")
    ] = "",
    token_file: Annotated[
        Path | None,
        typer.Option(help="Who reads it has to bear this token; made there on first use."),
    ] = None,
    tls_certificate: TlsCertificate = None,
    tls_key: TlsKey = None,
    as_json: AsJson = False,
) -> None:
    """Show the federation in a browser, read-only, on 127.0.0.1:9094 unless told otherwise.

    It reads the home and nothing else, so it may run beside `up`, and be stopped at any time.
    """
    require_page()
    from gobelin.server.home import AggregatorHome
    from gobelin.server.page.inspector import Inspector
    from gobelin.server.page.server import make_page
    from gobelin.shared.address import parse_address

    place = AggregatorHome(home)
    told = place.settings().page
    where = parse_address(address) if address else (told.host, told.port or PORT)
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
