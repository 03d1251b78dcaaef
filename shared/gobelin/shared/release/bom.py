"""The ML-BOM: what a release is made of, as CycloneDX 1.6 (JSON)."""

from __future__ import annotations

import datetime
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from gobelin.protocols.ledger import ContributionRecord, ReleaseStatement, RoundRecord

FILE = "bom.cdx.json"
SPACE = uuid.UUID("6f1f5a0e-3f0e-5b7e-9a53-8d2c6b0b5a11")  # of the serial numbers below


def bom_of(
    statement: ReleaseStatement,
    record: RoundRecord,
    rows: Sequence[ContributionRecord],
    manifest: Mapping[str, Any],
) -> dict[str, Any]:
    """The bill of a release's model: its files, its recipe, who contributed, and how to check it.

    `manifest` is that of the release's checkpoint.
    """
    recipe, files = manifest["recipe"], manifest["files"]
    name, version = f"{statement.federation} consensus", str(statement.round)
    at = datetime.datetime.fromtimestamp(statement.issued, datetime.UTC)
    objective = recipe.get("objective", {}).get("kind", "")
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(SPACE, record.manifest_digest)}",
        "version": 1,
        "metadata": {"timestamp": at.strftime("%Y-%m-%dT%H:%M:%SZ")},
        "components": [
            {
                "type": "machine-learning-model",
                "bom-ref": f"{statement.federation}@{version}",
                "name": name,
                "version": version,
                "hashes": [{"alg": "SHA-256", "content": files["model.safetensors"]}],
                "modelCard": {
                    "modelParameters": {
                        "approach": {"type": "self-supervised"},
                        "task": "representation learning",
                        "architectureFamily": "JEPA",
                        "modelArchitecture": f"tokenizer, trunk, projector; {objective}",
                        "outputs": [{"format": "embedding"}],
                    },
                    "considerations": {
                        "technicalLimitations": [
                            "No differential privacy is claimed at the level of members.",
                        ],
                    },
                },
                "properties": [
                    {"name": f"gobelin:{key}", "value": value}
                    for key, value in _properties(statement, record, rows, manifest).items()
                ],
            }
        ],
    }


def _properties(
    statement: ReleaseStatement,
    record: RoundRecord,
    rows: Sequence[ContributionRecord],
    manifest: Mapping[str, Any],
) -> dict[str, str]:
    told = {
        "federation": statement.federation,
        "round": str(statement.round),
        "parameters": str(manifest["parameters"]),
        "recipe_digest": manifest["recipe_digest"],
        "vector_digest": record.vector_digest,
        "ledger_record": record.digest,
    }
    for row in rows:
        if row.counted:
            told[f"weight:{row.node}:{row.asked}"] = f"{row.weight:.17g}"
    return told
