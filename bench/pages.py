"""What measurements of pages share: the page's process, and a real browser."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CHROMIUM = Path("/usr/bin/chromium")
SERVE = "from gobelin.server.cli import app; app()"


@contextlib.contextmanager
def served(home: Path, *more: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The aggregator's page of a home, by the command itself: its address and its process."""
    command = [sys.executable, "-c", SERVE, "page", "--home", str(home)]
    process = subprocess.Popen(
        [*command, "--port", "0", "--json", *more],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    try:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())["url"], process
    finally:
        process.terminate()
        process.wait(30)


@contextlib.contextmanager
def browser() -> Iterator[Any]:
    """Chromium without a window; raises SystemExit where there is none."""
    if not CHROMIUM.exists():
        raise SystemExit(f"{CHROMIUM} is not there: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        found = play.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        try:
            yield found
        finally:
            found.close()
