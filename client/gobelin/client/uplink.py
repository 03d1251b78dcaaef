"""The egress budget: how many bytes a round's contribution may have, and how fast they leave."""

from __future__ import annotations

from pathlib import Path

from gobelin.client.home import EgressSettings
from gobelin.shared.files import find_json, write_json

KEEP = 5  # sends


def budget_bytes(egress: EgressSettings, bytes_per_second: float | None) -> float | None:
    """Most bytes of an encoded delta; None for no limit.

    A limit in seconds is none while no rate has been measured.
    """
    limits = []
    if egress.max_mb_per_round is not None:
        limits.append(1e6 * egress.max_mb_per_round)
    if egress.seconds_per_round is not None and bytes_per_second is not None:
        limits.append(egress.seconds_per_round * bytes_per_second)
    return min(limits, default=None)


class Uplink:
    """The upload rate as measured over the last sends, latency included, in one file."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def note(self, sent_bytes: int, seconds: float) -> None:
        """Record one send; none is told where nothing left, as the other side had it already."""
        if sent_bytes and seconds > 0:
            write_json(self._file, {"sends": [*self._sends(), [sent_bytes, seconds]][-KEEP:]})

    def bytes_per_second(self) -> float | None:
        """All bytes over all seconds of the last sends; None when nothing was sent yet."""
        sends = self._sends()
        return sum(sent for sent, _ in sends) / sum(s for _, s in sends) if sends else None

    def _sends(self) -> list[tuple[int, float]]:
        known = find_json(self._file) or {"sends": []}
        return [(int(sent), float(seconds)) for sent, seconds in known["sends"]]
