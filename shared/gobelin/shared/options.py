"""Options that commands of several rooms share, so that they mean the same in each."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
AsJsonLines = Annotated[bool, typer.Option("--json", help="Print JSON lines.")]
LogFormat = Annotated[
    str | None,
    typer.Option(help="Print the log, as json or console, in place of the live view."),
]
Checkpoint = Annotated[Path, typer.Argument(help="Checkpoint or release folder.")]
NoKeys = Annotated[bool, typer.Option("--no-keys", help="Leave private keys out.")]
PassphraseFile = Annotated[
    Path | None, typer.Option(help="Its first line encrypts the private keys.")
]
Device = Annotated[str, typer.Option(help="cpu, cuda, ...")]
TlsCertificate = Annotated[
    Path | None, typer.Option(help="Answer over TLS: PEM of the certificate and its chain.")
]
TlsKey = Annotated[Path | None, typer.Option(help="PEM of the certificate's key.")]
