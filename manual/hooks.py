"""mkdocs' side of it: the reference is made while the site is built, and is in no commit."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

# Of operating it; in the menu where a checkout has them.
OPERATE = {
    "The aggregator's page": "page.md",
    "The node's page and terminal": "node.md",
    "Look for what is wrong": "doctor.md",
    "Hard networks": "networks.md",
    "Metrics, logs, alerts": "observability.md",
    "Run it for months": "operations.md",
    "What federating is worth to you": "premium.md",
}
ROOT = Path(__file__).parent.parent
FETCHED = re.compile(
    r"<(?:script|img|iframe|source)[^>]+src=\"?(?:https?:)?//[^>]+>"
    r"|<link[^>]+rel=\"?(?:stylesheet|preconnect|preload)[^>]+//[^>]+>"
)
ROOT_PAGES = ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")
sys.path[:0] = [str(ROOT)]


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the pages of operating it behind the how-to pages."""
    docs = Path(config.docs_dir)
    pages = [{title: file} for title, file in OPERATE.items() if (docs / file).exists()]
    if pages and config.nav:
        place = next(n for n, entry in enumerate(config.nav) if "Reference" in entry)
        config.nav.insert(place, {"Operate": pages})
    return config


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
    for name in ROOT_PAGES:
        content = _as_in_docs((ROOT / name).read_text())
        files.append(File.generated(config, name.lower(), content=content))
    return files


def on_post_page(output: str, page: Any, config: MkDocsConfig) -> str:
    """A page that has a reader's browser fetch something from elsewhere ends the build."""
    if found := FETCHED.search(output):
        raise PluginError(f"{page.file.src_uri} fetches {found[0]}: readers may be offline")
    return output


def _as_in_docs(text: str) -> str:
    """A page of the repository's root, its links as seen from docs/."""
    text = text.replace("](docs/", "](")
    for name in ROOT_PAGES:
        text = text.replace(f"]({name})", f"]({name.lower()})")
    return text
