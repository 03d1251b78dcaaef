"""`… metrics`: serve one home's metrics alone, without the page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from gobelin.shared.announce import announce
from gobelin.shared.options import TlsCertificate, TlsKey

Seen = TypeVar("Seen")


def serve_metrics(
    families: Sequence[Any],
    look: Callable[[], Seen],
    labels: Callable[[Seen], Mapping[str, str]],
    where: tuple[str, int],
    token_file: Path | None,
    tls: tuple[TlsCertificate, TlsKey],
    as_json: bool,
) -> None:
    """Answer /metrics until stopped; raises ConfigError beyond loopback without a token."""
    from gobelin.shared.errors import ConfigError
    from gobelin.shared.metrics import PATH, Exporter, metrics_app

    exporter = Exporter(families, labels)
    try:
        from gobelin.shared import http_server
        from gobelin.shared.token import read_token
    except ImportError as error:
        what = f"metrics need FastAPI and uvicorn, and {error.name} is not installed"
        raise ConfigError(what, "pip install 'gobelin[metrics]'") from None
    host, port = where
    if token_file is None and not http_server.is_loopback(host):
        what = f"whoever reaches {host} could read these metrics"
        raise ConfigError(what, "name a --token-file, or listen on 127.0.0.1")
    look()  # what is wrong with the home is told now
    certificate = http_server.Certificate.of(*tls)
    token = "" if token_file is None else read_token(token_file)
    app = metrics_app(exporter, look, http_server.trusted_hosts(host), token)
    listening = http_server.listen(host, port)
    url = http_server.url_of(host, listening, certificate) + PATH
    announce({"url": url}, f"metrics are at {url}", "have your Prometheus scrape it", as_json)
    http_server.serve(app, listening, certificate)
