"""The model card: what a person should know of a release, written from the ledger."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any

from gobelin.protocols.ledger import ReleaseStatement, RoundRecord
from gobelin.shared.premium import PremiumReport
from gobelin.shared.premium import section as premium_section

FILE = "model_card.md"


def card_of(
    statement: ReleaseStatement,
    record: RoundRecord,
    influence: Mapping[str, Mapping[str, Any]],
    manifest: Mapping[str, Any],
    transplant: Mapping[str, Any] | None = None,
    premium: PremiumReport | None = None,
) -> str:
    """Markdown. `influence` is the ledger's up to this round (`influence_of`), `manifest` the
    release's checkpoint's; `transplant` what heads of the last release were found to lose,
    `premium` what members say that federating gave them."""
    recipe, facts = manifest["recipe"], manifest["facts"]
    day = datetime.datetime.fromtimestamp(statement.issued, datetime.UTC).date()
    until = datetime.datetime.fromtimestamp(statement.expires, datetime.UTC).date()
    modalities = ", ".join(sorted(recipe.get("modalities", {}))) or "image"
    lines = [
        f"# {statement.federation}: the consensus after round {record.round}",
        "",
        f"Released {day}; to be taken for the newest until {until}.",
        "",
        "## The model",
        "",
        f"A joint-embedding predictive architecture (JEPA) of {manifest['parameters']:,} "
        f"parameters for {modalities} data, trained by a federation of "
        f"{len(influence)} members who kept their data. "
        f"Objective: {recipe.get('objective', {}).get('kind', 'lejepa')}.",
        "",
        "It gives embeddings. It is no classifier, and nobody has measured it for any use.",
        "",
        "## Who made it",
        "",
        "| member | contributions | influence over all rounds | in this round |",
        "|---|---|---|---|",
        *(_row(name, of, record.round) for name, of in influence.items()),
        "",
        "Influence is how far a member's contributions moved the model, as a share of all; "
        "it is read from the ledger, and no member reports its own.",
        "",
        *([*premium_section(premium), ""] if premium is not None else []),
        "## What was built on the release before",
        "",
        *_transplanted(transplant),
        "",
        "## How contributions became one",
        "",
        *(
            f"* {name}: `{_plain(facts[name])}`"
            for name in ("aggregation", "policy", "outer")
            if name in facts
        ),
        "",
        "## Privacy",
        "",
        "Parameter vectors left the members, and no data. No differential privacy is claimed: "
        "what a vector tells of the data behind it is a matter of measurement.",
        "",
        "## Checking it",
        "",
        "`gobelin verify` checks every file, the aggregator's signatures, and that the ledger has "
        "this round; `model-signing verify key` checks the files against model.sig.",
        "",
        "| what | SHA-256 |",
        "|---|---|",
        f"| consensus | `{record.vector_digest}` |",
        f"| record in the ledger | `{record.digest}` |",
        f"| recipe | `{manifest['recipe_digest']}` |",
        "",
    ]
    return "\n".join(lines)


def _row(name: str, of: Mapping[str, Any], number: int) -> str:
    now = of["rounds"].get(str(number), {}).get("influence", 0.0)
    return f"| {name} | {of['counted']} | {of['share']:.1%} | {now:.1%} |"


def _transplanted(found: Mapping[str, Any] | None) -> list[str]:
    if found is None:
        return [
            "How heads of an earlier release do on this one was not measured: there is none, or "
            "the federation names no public labelled samples (`releases.probe`)."
        ]
    before = found["from_round"]
    return [
        f"A linear head fitted on the release of round {before} and used on this one, through the "
        f"frame published here, loses {found['points_lost']:.1f} points on "
        f"{found['test_samples']:,} public samples ({found['modality']}):",
        "",
        "| head | accuracy |",
        "|---|---|",
        f"| of round {before}, on its own release | {found['before']:.1f} % |",
        f"| the same on this release, through `frame.safetensors` | {found['framed']:.1f} % |",
        f"| the same on this release's tokens as they are | {found['untouched']:.1f} % |",
        f"| fitted anew on this release | {found['fresh']:.1f} % |",
        "",
        f"The latent frame turned by {found['rotation']:.1f}° in between.",
    ]


def _plain(table: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} = {value}" for key, value in sorted(table.items()))
