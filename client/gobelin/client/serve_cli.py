"""`gobelin serve`: a sovereign model over HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gobelin.shared.announce import announce
from gobelin.shared.options import (
    AsJson,
    Device,
    Host,
    MaxMb,
    Port,
    SignedBy,
    TlsCertificate,
    TlsKey,
    TokenFile,
)

app = typer.Typer(add_completion=False)


@app.command()
def serve(
    package: Annotated[Path, typer.Argument(help="A sovereign model's folder.")],
    host: Host = "127.0.0.1",
    port: Port = 0,
    max_mb: MaxMb = 16.0,
    token_file: TokenFile = None,
    signed_by: SignedBy = None,
    tls_certificate: TlsCertificate = None,
    tls_key: TlsKey = None,
    device: Device = "cpu",
    as_json: AsJson = False,
) -> None:
    """Answer /embed, /classify and /surprise until stopped, on loopback unless told otherwise."""
    from gobelin.client.sovereign.package import load
    from gobelin.shared.errors import ConfigError

    try:
        from gobelin.client.serving.server import make_app
        from gobelin.shared import http_server
        from gobelin.shared.token import read_token
    except ImportError as error:
        what = f"serving needs FastAPI and uvicorn, and {error.name} is not installed"
        raise ConfigError(what, "pip install 'gobelin[serve]'") from None
    if token_file is None and not http_server.is_loopback(host):
        what = f"whoever reaches {host} could ask this model"
        raise ConfigError(what, "name a --token-file, or listen on 127.0.0.1")
    certificate = http_server.Certificate.of(tls_certificate, tls_key)
    model = load(package, key=signed_by, device=device)
    token = "" if token_file is None else read_token(token_file)
    hosts = http_server.trusted_hosts(host)
    made = make_app(model, int(max_mb * 1e6), hosts, token)
    listening = http_server.listen(host, port)
    url = http_server.url_of(host, listening, certificate)
    about = {"url": url, "model": model.digest, "task": model.task}
    said = f"serving {package}, a {model.task} model of {model.lineage.region}, at {url}"
    announce(about, said, f"see {url}/openapi.json for what it answers", as_json)
    if certificate is None and not http_server.is_loopback(host):
        typer.echo("the token and all answers go in the clear: give a --tls-certificate", err=True)
    http_server.serve(made, listening, certificate)
