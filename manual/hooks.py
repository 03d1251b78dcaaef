"""mkdocs' side of it: the reference is made while the site is built, and is in no commit."""

from __future__ import annotations

import sys
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT)]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made from code."""
    from manual import commands, errors, protocol, settings

    made = {
        "commands": commands.page,
        "configuration": settings.page,
        "recipes": settings.recipes,
        "protocol": protocol.page,
        "errors": errors.page,
    }
    for name, page in made.items():
        files.append(File.generated(config, f"reference/{name}.md", content=page()))
    for name in ("README.md", "CHANGELOG.md", "SECURITY.md", "CONTRIBUTING.md"):
        source = ROOT / name
        if name != "README.md" and source.exists():
            content = _as_in_docs(source.read_text())
            files.append(File.generated(config, f"{source.stem.lower()}.md", content=content))
    return files


def _as_in_docs(text: str) -> str:
    """A page of the repository's root, its links as seen from docs/."""
    return text.replace("](docs/", "](")
