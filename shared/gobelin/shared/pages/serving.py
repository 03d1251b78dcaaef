"""Serving a page until it is stopped: where it listens, who may read it, and what is said of it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from gobelin.shared.announce import announce
from gobelin.shared.errors import PageError

if TYPE_CHECKING:
    from fastapi import FastAPI

Make = Callable[[Collection[str] | None, str], "FastAPI"]  # of the hosts it is called by, a token


def serve_page(
    what: str,
    make: Make,
    where: tuple[str, int],
    token_file: Path | None,
    tls: tuple[Path | None, Path | None],
    as_json: bool,
) -> None:
    """Serve the page of `what` until SIGTERM or Ctrl-C.

    `tls` names a certificate and its key, or nothing. Raises ConfigError where others than this
    machine could read it without a token, and PortInUseError.
    """
    from gobelin.shared import http_server
    from gobelin.shared.pages.app import require_token_beyond_loopback
    from gobelin.shared.token import read_token

    host, port = where
    token = "" if token_file is None else read_token(token_file)
    require_token_beyond_loopback(host, token)
    certificate = http_server.Certificate.of(*tls)
    app = make(http_server.trusted_hosts(host), token)
    listening = http_server.listen(host, port)
    url = http_server.url_of(host, listening, certificate)
    announce({"url": url}, f"the page of {what} is at {url}", "open it in a browser", as_json)
    if certificate is None and not http_server.is_loopback(host):
        typer.echo("token and page go in the clear: give a --tls-certificate", err=True)
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # open events, when it stops
    http_server.serve(app, listening, certificate)


def require_page() -> None:
    """Raise PageError where what pages are made with is not installed."""
    missing = [name for name in ("fastapi", "uvicorn", "jinja2") if find_spec(name) is None]
    if missing:
        what = f"the page needs {', '.join(missing)}, which this installation lacks"
        raise PageError(what, "pip install 'gobelin[page]'")
