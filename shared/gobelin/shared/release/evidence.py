"""Evidence: what was measured of a federation's training, published with the releases that follow.

A JSON file a kind beside the model, named in model.sig with its digest as every other file is, in
the bill of materials, and told in the model card. Who measured it answers for it; the aggregator
checks that it is of its recipe, and signs that it published it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gobelin.shared.errors import ConfigError
from gobelin.shared.files import find_json, json_bytes, read_json, write_atomic, write_json
from gobelin.shared.release import bom, card

MOST_BYTES = 1 << 20
LEAKAGE = "gobelin.leakage.v1"  # format of what `gobelin audit leakage` writes


@dataclass(frozen=True)
class Kind:
    """One kind of evidence."""

    file: str  # its name in a release
    section: Callable[[Mapping[str, Any]], list[str]]  # of the card; KeyError, TypeError if none


def read_evidence(path: Path, recipe_digest: str) -> tuple[str, dict[str, Any]]:
    """Evidence about training by a recipe: its file name in releases, and its facts.

    Raises ConfigError on anything else.
    """
    try:
        data = path.read_bytes() if path.stat().st_size <= MOST_BYTES else b""
        facts = json.loads(data, parse_constant=_refuse)
        kind = KINDS[facts["format"]]
        kind.section(facts)
        digest = facts["recipe_digest"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ConfigError(
            f"{path} holds no evidence that a release has a place for",
            "write it by `gobelin audit leakage --out FILE`",
        ) from None
    if digest != recipe_digest:
        raise ConfigError(
            f"{path} was measured on another recipe than this federation's",
            "audit a node of this federation: `gobelin audit leakage --home NODE --out FILE`",
        )
    return kind.file, facts


def add_evidence(release: Path, evidence: Path) -> None:
    """Put all evidence of a folder into a release that is not signed yet, its bill and its card."""
    for name, kind in sorted((kind.file, kind) for kind in KINDS.values()):
        facts = find_json(evidence / name)
        if facts is None:
            continue
        write_json(release / name, facts)
        bill = read_json(release / bom.FILE)
        digest = hashlib.sha256(json_bytes(facts)).hexdigest()
        told = {"name": f"gobelin:evidence:{name}", "value": digest}
        bill["components"][0]["properties"].append(told)
        write_json(release / bom.FILE, bill)
        text = (release / card.FILE).read_text() + "\n".join([*kind.section(facts), ""])
        write_atomic(release / card.FILE, text.encode())


def _leakage(facts: Mapping[str, Any]) -> list[str]:
    """The curve of `gobelin audit leakage`: each attack at its best, over steps and batches."""
    control = facts["control"]
    told = "no inversion was tried"
    if control is not None:
        verdict = (
            "it succeeds" if facts["conclusive"] else "IT FAILS, so that others fail is no proof"
        )
        told = (
            f"positive control of the inversion {_figure(control['psnr_db'], '.1f')} dB: {verdict}"
        )
    return [
        "## What updates leak",
        "",
        f"Attacks on updates of a node of this federation, by `gobelin audit leakage` on its own "
        f"data ({facts['samples']:,} samples at most, codec {facts['codec']}, base "
        f"`{str(facts['base_digest'])[:16]}`); {told}. {facts['privacy']}; a better attack may "
        "find more.",
        "",
        "| local steps | batch | inversion over the mean image, dB | membership AUC | canary AUC |",
        "|---|---|---|---|---|",
        *(_row(setting) for setting in facts["settings"]),
    ]


def _row(setting: Mapping[str, Any]) -> str:
    inverted = setting["inversion"] or {}
    best = [
        max((score["auc"] for score in scores.values()), default=None) if scores else None
        for scores in (setting["membership"], setting["canaries"])
    ]
    figures = [_figure(inverted.get("over_mean_db"), "+.2f"), *(_figure(b, ".2f") for b in best)]
    return f"| {setting['local_steps']:d} | {setting['batch_size']:d} | {' | '.join(figures)} |"


def _figure(value: Any, form: str) -> str:
    return "–" if value is None else f"{value:{form}}"


def _refuse(constant: str) -> Iterator[None]:
    raise ValueError(constant)


KINDS = {LEAKAGE: Kind("leakage.json", _leakage)}
