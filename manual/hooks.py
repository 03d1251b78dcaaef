"""mkdocs' side of it: the reference is made while the site is built, and is in no commit."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
FETCHED = re.compile(
    r"<(?:script|img|iframe|source)[^>]+src=\"?(?:https?:)?//[^>]+>"
    r"|<link[^>]+rel=\"?(?:stylesheet|preconnect|preload)[^>]+//[^>]+>"
)
ROOT_PAGES = ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")
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
