"""`gobelin node page`: a node's home, for a browser."""

from __future__ import annotations

from gobelin.client.options import DEFAULT_HOME, Home
from gobelin.shared.options import AsJson, Host, Port, TlsCertificate, TlsKey, TokenFile
from gobelin.shared.pages.serving import require_page, serve_page


def page(
    home: Home = DEFAULT_HOME,
    host: Host = "127.0.0.1",
    port: Port = 9095,
    token_file: TokenFile = None,
    tls_certificate: TlsCertificate = None,
    tls_key: TlsKey = None,
    as_json: AsJson = False,
) -> None:
    """Show the node in a browser, read-only.

    It reads the home and nothing else, so it may run beside the node, and be stopped at any time.
    """
    require_page()
    from gobelin.client.home import NodeHome
    from gobelin.client.page.server import make_page

    place = NodeHome(home)
    place.settings()
    serve_page(
        str(home),
        lambda hosts, token: make_page(place, hosts, token),
        (host, port),
        token_file,
        (tls_certificate, tls_key),
        as_json,
    )
