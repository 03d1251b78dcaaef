"""What the processes of a federation are called in tests and measurements."""

from __future__ import annotations

from pathlib import PurePath


def process_name(argv: list[str]) -> str:
    """Which of a federation's processes this is, from its command line; '' for any other."""
    words = [PurePath(word).name for word in argv]
    for word in words[:3]:
        known = {"gobelin.server.superlink": "superlink", "flower-superexec": "superexec"}
        known["flwr-serverapp"] = "serverapp"
        if word in known:
            return known[word]
    if "gobelin" in words[:2]:
        typed = words[words.index("gobelin") + 1 :]
        if typed[:3] == ["aggregator", "up", "--home"]:
            return "supervisor"
        if typed[:3] == ["aggregator", "serve", "--home"]:
            return "service"
        if typed[:3] == ["node", "run", "--home"]:
            return "".join(typed[3:4])  # the member's name
        if "join" in words[:4]:
            return "join"
    return ""
