"""Options that commands of several rooms share, so that they mean the same in each."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
AsJsonLines = Annotated[bool, typer.Option("--json", help="Print JSON lines.")]
LogFormat = Annotated[
    str | None,
    typer.Option(
        envvar="GOBELIN_LOG_FORMAT",  # for who starts the command by a unit or a compose file
        help="Print the log, as json or console, in place of the live view.",
    ),
]
Checkpoint = Annotated[Path, typer.Argument(help="Checkpoint or release folder.")]
NoKeys = Annotated[bool, typer.Option("--no-keys", help="Leave private keys out.")]
PassphraseFile = Annotated[
    Path | None, typer.Option(help="Its first line encrypts the private keys.")
]
Host = Annotated[str, typer.Option(help="Address to listen on.")]
Port = Annotated[int, typer.Option(help="To listen on; 0 picks a free one.", min=0, max=65535)]
TokenFile = Annotated[
    Path | None, typer.Option(help="Who asks has to bear this token; made there on first use.")
]
SignedBy = Annotated[
    str | None, typer.Option(help="Public key of the region that must have signed the package.")
]
MaxMb = Annotated[float, typer.Option(help="Largest request, in MB.", min=0.001)]
Device = Annotated[str, typer.Option(help="cpu, cuda, ...")]
TlsCertificate = Annotated[
    Path | None, typer.Option(help="Answer over TLS: PEM of the certificate and its chain.")
]
TlsKey = Annotated[Path | None, typer.Option(help="PEM of the certificate's key.")]
