"""`gobelin aggregator page`: the aggregator's home, for a browser."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from gobelin.server.options import DEFAULT_HOME, Home
from gobelin.shared.errors import PageError
from gobelin.shared.options import AsJson, TlsCertificate, TlsKey

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
    from gobelin.shared import http_server
    from gobelin.shared.address import parse_address
    from gobelin.shared.pages.app import require_token_beyond_loopback
    from gobelin.shared.token import read_token

    place = AggregatorHome(home)
    told = place.settings().page
    host, port = parse_address(address) if address else (told.host, told.port or PORT)
    file = token_file or (place.folder / told.token_file if told.token_file else None)
    token = "" if file is None else read_token(file)
    require_token_beyond_loopback(host, token)
    certificate = http_server.Certificate.of(tls_certificate, tls_key)
    inspector = Inspector(place)
    app = make_page(place, http_server.trusted_hosts(host), token, inspector)
    listening = http_server.listen(host, port)
    url = http_server.url_of(host, listening, certificate)
    print(json.dumps({"url": url}) if as_json else f"the page of {home} is at {url}", flush=True)
    if certificate is None and not http_server.is_loopback(host):
        typer.echo("token and page go in the clear: give a --tls-certificate", err=True)
    try:
        http_server.serve(app, listening, certificate)
    finally:
        inspector.close()


def require_page() -> None:
    """Raise PageError where what pages are made with is not installed."""
    missing = [name for name in ("fastapi", "uvicorn", "jinja2") if find_spec(name) is None]
    if missing:
        what = f"the page needs {', '.join(missing)}, which this installation lacks"
        raise PageError(what, "pip install 'gobelin[page]'")
