"""`gobelin sovereign export`: a region's model in forms that need nothing of Gobelin."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from gobelin.shared.options import AsJson, SignedBy


class Form(StrEnum):
    """What to export to."""

    ONNX = "onnx"
    HF = "hf"


def export(
    package: Annotated[Path, typer.Argument(help="A sovereign model's folder.")],
    to: Annotated[Form, typer.Option(help="onnx, or a folder as Hugging Face's hub has them.")],
    out: Annotated[Path, typer.Option(help="Folder the export is written to.")],
    home: Annotated[
        Path | None, typer.Option(help="The region's home: its key signs the export.")
    ] = None,
    signed_by: SignedBy = None,
    as_json: AsJson = False,
) -> None:
    """Write a model as ONNX or for Hugging Face's hub; refused where it computes something else."""
    # Late, so that --help need not wait for torch.
    from gobelin.client.sovereign.export import export_package
    from gobelin.client.sovereign.lineage import region_key
    from gobelin.client.sovereign.package import read_package

    model = read_package(package, key=signed_by)
    signing = None if home is None else region_key(home)
    told = export_package(model, out, to.value, signing)
    if as_json:
        print(json.dumps({"export": str(out), **told}, indent=2, sort_keys=True))
        return
    print(
        f"exported {model.task} model {told['package'][:12]} of {told['region']} to {out}: "
        f"differs by at most {told['max_abs_diff']:.1e} ({told['checked_by']})"
    )
