"""The publisher: every so many rounds the consensus becomes a signed release."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from gobelin.protocols.ledger import ReleaseStatement
from gobelin.server.home import AggregatorHome
from gobelin.server.ledger import RoundLedger
from gobelin.server.transplants import transplant_of
from gobelin.shared.checkpoint import MANIFEST, fill_checkpoint, read_checkpoint
from gobelin.shared.errors import GobelinError
from gobelin.shared.files import folder_atomic, read_json, write_atomic, write_json
from gobelin.shared.frame import Frame
from gobelin.shared.ledger import influence_of
from gobelin.shared.premium import PremiumReport, premium_report, why_held
from gobelin.shared.release import ReleaseKey, bom, card, seal_release
from gobelin.shared.release.evidence import add_evidence
from gobelin.shared.release.transplant import fill_transplant
from gobelin.shared.vector import ParameterVector

DAY_S = 86_400


class Publisher:
    """Writes releases, each whole or not at all."""

    def __init__(
        self,
        home: AggregatorHome,
        ledger: RoundLedger,
        tell: Callable[[str, Mapping[str, Any]], None],
        now: Callable[[], float] = time.time,
    ) -> None:
        """`tell` takes an event for the log; `now` is in seconds since 1970."""
        self._home = home
        self._ledger = ledger
        self._tell = tell
        self._now = now
        self._settings = home.settings()
        self._recipe = home.recipe()

    def release(self, number: int, consensus: ParameterVector, facts: Mapping[str, Any]) -> None:
        """Publish a sealed round if a release is due and not published yet, and nothing holds it.

        What is held back is due again with every round to come.
        """
        rounds = self._settings.rounds
        folder = self._home.releases / f"release-{number:05d}"
        premium = premium_report(facts.get("contributions", ()))
        back = "rollback" in facts  # who takes the newest must get what it went back to
        if folder.exists() or not (back or self._due(number)):
            return
        if not back and self._held(number, premium):
            return
        key, at = ReleaseKey.at(self._home.release_key_file), int(self._now())
        statement = ReleaseStatement(
            federation=self._settings.name,
            round=number,
            vector_digest=consensus.digest,
            issued=at,
            expires=at + rounds.release_days * DAY_S,
            key=key.public,
        )
        entry = self._ledger.entry(number)
        transplant = self._transplant(number, consensus)
        heads = None if transplant is None else transplant[0]
        with folder_atomic(folder) as tmp:
            fill_checkpoint(tmp, self._recipe, consensus, facts)
            manifest = read_json(tmp / MANIFEST)
            write_json(tmp / bom.FILE, bom.bom_of(statement, entry.record, entry.rows, manifest))
            entries = map(self._ledger.entry, range(number + 1))
            influence = influence_of(entries, number, self._ledger.rollbacks)
            told = card.card_of(statement, entry.record, influence, manifest, heads, premium)
            if transplant is not None:
                fill_transplant(tmp, *transplant)
            write_atomic(tmp / card.FILE, told.encode())
            add_evidence(tmp, self._home.evidence)
            proof, head = self._ledger.prove(number), self._ledger.head
            keys = (self._home.signing_key(), key)
            seal_release(tmp, folder.name, statement, proof, head, keys)
        lost = {} if heads is None else {"head_points_lost": heads["points_lost"]}
        self._tell("release", {"round": number, "folder": folder.name, **lost})

    def _due(self, number: int) -> bool:
        """Whether a round is one to release, or goes on where such a one was held back."""
        rounds = self._settings.rounds
        last = number // rounds.release_every * rounds.release_every  # to be released, so far
        if number == rounds.rounds or number == last:
            return number > 0
        if self._settings.releases.least_premium is None or not last:
            return False
        newest = max((int(path.name[-5:]) for path in _releases(self._home)), default=0)
        return newest < last

    def _held(self, number: int, premium: PremiumReport) -> bool:
        """Whether the release's gate is shut, and say why."""
        gate = self._settings.releases
        if gate.least_premium is None:
            return False
        why = why_held(premium, gate.least_premium, gate.premium_members)
        if why:
            self._tell("release_held", {"round": number, "why": why, "premium": premium.facts()})
        return bool(why)

    def _transplant(
        self, number: int, consensus: ParameterVector
    ) -> tuple[Mapping[str, Any], Frame] | None:
        """What heads of the release before lose on this one, where it can be measured."""
        before = _releases(self._home)
        if self._settings.releases.probe is None or not before:
            return None
        try:
            return transplant_of(self._settings, read_checkpoint(before[-1]), number, consensus)
        except GobelinError as error:  # a probe that is gone must not hold up the federation
            self._tell("transplant_unknown", {"round": number, "why": str(error)})
            return None


def _releases(home: AggregatorHome) -> list[Path]:
    """Those that are published, oldest first."""
    return sorted(path for path in home.releases.glob("release-*") if path.is_dir())
