"""What a command that goes on says once it is ready: one line, or one JSON object."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def announce(facts: Mapping[str, Any], said: str, then: str, as_json: bool) -> None:
    """Tell that a command is ready: what it is and where, how it is stopped, what comes next.

    Among logs the object is a record, whose event is `ready`.
    """
    line = f"{said}; Ctrl-C stops it. Next: {then}"
    print(json.dumps({"event": "ready", **facts}) if as_json else line, flush=True)
