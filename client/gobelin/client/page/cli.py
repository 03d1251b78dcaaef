"""`gobelin node page`: a node's home, for a browser."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gobelin.client.options import DEFAULT_HOME, Home
from gobelin.shared.options import AsJson, TlsCertificate, TlsKey
from gobelin.shared.pages.serving import require_page, serve_page

PORT = 9095


def page(
    home: Home = DEFAULT_HOME,
    address: Annotated[
        str, typer.Option(help="host:port to listen on; port 0 picks a free one.")
    ] = f"127.0.0.1:{PORT}",
    token_file: Annotated[
        Path | None,
        typer.Option(help="Who reads it has to bear this token; made there on first use."),
    ] = None,
    tls_certificate: TlsCertificate = None,
    tls_key: TlsKey = None,
    as_json: AsJson = False,
) -> None:
    """Show the node in a browser, read-only, on 127.0.0.1:9095 unless told otherwise.

    It reads the home and nothing else, so it may run beside the node, and be stopped at any time.
    """
    require_page()
    from gobelin.client.home import NodeHome
    from gobelin.client.page.server import make_page
    from gobelin.shared.address import parse_address

    place = NodeHome(home)
    place.settings()
    serve_page(
        str(home),
        lambda hosts, token: make_page(place, hosts, token),
        parse_address(address),
        token_file,
        (tls_certificate, tls_key),
        as_json,
    )
