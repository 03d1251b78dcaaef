"""Write the golden bundle: two small files, signed as the first version signs a release.

What it holds verifies for ever; run it only to add another version beside it.
"""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from gobelin.shared.release import ReleaseKey
from gobelin.shared.release.bundle import sign_folder

FOLDER = Path(__file__).parent / "golden" / "v1"
PUBLIC = FOLDER.with_suffix(".pub")
FILES = {"model.safetensors": b"not a model\n", "more/notes.txt": b"two\n"}


def golden_key() -> ReleaseKey:
    """The same key every time; a release's is random."""
    return ReleaseKey(ec.derive_private_key(20260101, ec.SECP256R1()))


if __name__ == "__main__":
    for name, data in FILES.items():
        (FOLDER / name).parent.mkdir(parents=True, exist_ok=True)
        (FOLDER / name).write_bytes(data)
    PUBLIC.write_text(golden_key().public)
    sign_folder(FOLDER, "golden", golden_key())
