"""The observer: reads a node's home into an overview, again and again, and changes nothing.

It imports no tensors: whoever only looks is there at once. What was read and cannot have changed is
kept for the next look.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from gobelin.client import machine
from gobelin.client.egress_ledger import EgressLedger, total
from gobelin.client.home import NodeHome, NodeSettings, NodeStatus
from gobelin.client.overview import (
    LeftView,
    MachineView,
    Overview,
    PremiumPoint,
    PremiumView,
    RoundView,
    SpoolView,
    left_of,
    next_of,
    refusals_of,
    rounds_of,
)
from gobelin.client.refusals import remedy_of
from gobelin.client.shadow.premium import premiums
from gobelin.client.shadow.record import FILE as RECORD
from gobelin.client.shadow.record import Record, read_record
from gobelin.client.spool_entry import MOMENTS, Entry, entries_in, folder_of
from gobelin.client.uplink import Uplink
from gobelin.protocols.messages import (
    METRIC_DISTORTION,
    METRIC_SENT_BYTES,
    MalformedMessageError,
    RoundPlan,
)
from gobelin.shared.errors import EgressError, GobelinError, ShadowError, StateError
from gobelin.shared.files import find_json, read_json
from gobelin.shared.locks import is_owned
from gobelin.shared.pausing import read_pause

SLOWLY_S = 20.0  # between two looks at what takes long to look at

Rows = list[dict[str, Any]]


class Observer:
    """Watches one home; not for several threads at a time."""

    def __init__(self, home: NodeHome, wall: Callable[[], float] = time.time) -> None:
        """`wall` is Unix time. Raises StateError where there is no home."""
        home.settings()
        self.home = home
        self._wall = wall
        self._records: tuple[tuple[int, int], Rows, str] = ((-1, -1), [], "")
        self._receipts: dict[str, Mapping[str, Any]] = {}
        self._slow: tuple[float, int, tuple[Any, ...]] | None = None

    def look(self) -> Overview:
        """The overview as of now."""
        home, settings = self.home, self.home.settings()
        records, broken = self._egress()
        running, (status, said_at) = is_owned(home.folder), self._status()
        entries = entries_in(home.spool)
        rounds = self._rounds(records, entries)
        planned = self._planned(status)
        sums = total(records)
        return Overview(
            at=self._wall(),
            node=settings.node,
            member=settings.member,
            aggregator=settings.aggregator,
            running=running,
            status=status,
            status_at=said_at,
            rounds_planned=planned,
            next=next_of(status, running, rounds, planned),
            rounds=rounds,
            refusals=refusals_of(records),
            left=LeftView(
                departures=sums.departures,
                wire_bytes=sums.wire_bytes,
                requests=sums.requests,
                by_purpose=left_of(records),
                records=sums.records,
                head=sums.head,
                broken=broken,
            ),
            premium=self._premium(settings),
            machine=self._machine(),
            spool=tuple(self._spooled(entry) for entry in entries),
            upload_bytes_per_second=Uplink(home.uplink_file).bytes_per_second(),
            egress=settings.egress.model_dump(exclude_none=True),
            paused=read_pause(home.folder),
            leaving=str(settings.egress),
            privacy=str(settings.privacy or "trained without differential privacy"),
            epsilon=self._epsilon(settings, records),
        )

    def _egress(self) -> tuple[Rows, str]:
        """The egress ledger's records, and what is wrong with it, where something is."""
        file = self.home.egress_file
        found = file.stat() if file.exists() else None
        stamp = (found.st_size, found.st_mtime_ns) if found else (0, 0)
        if stamp != self._records[0]:
            try:
                self._records = (stamp, EgressLedger(file).records(), "")
            except EgressError as error:
                self._records = (stamp, [], str(error))
        return self._records[1], self._records[2]

    def _status(self) -> tuple[NodeStatus, float | None]:
        """What the node said last, and when."""
        file = self.home.status_file
        try:
            return NodeStatus(**read_json(file)), file.stat().st_mtime
        except (StateError, TypeError, OSError):  # none yet, or of another version
            return NodeStatus("idle"), None

    def _planned(self, status: NodeStatus) -> int:
        """Rounds of the federation, as far as this node was told."""
        try:
            return RoundPlan.from_bytes(self.home.plan_file.read_bytes()).rounds
        except (OSError, MalformedMessageError):
            return status.rounds

    def _rounds(self, records: Rows, entries: Sequence[Entry]) -> tuple[RoundView, ...]:
        """What left for each round, and what became of it."""
        views = rounds_of(records)
        for path in self.home.receipts.glob("round-*.json"):
            if path.name not in self._receipts:
                self._receipts[path.name] = read_json(path)["receipt"]
        for told in self._receipts.values():
            before = views.get(told["round"], RoundView(told["round"]))
            views[told["round"]] = replace(before, state="counted", weight=told["weight"])
        for entry in entries:
            number, receipt = entry.contribution.round, entry.receipt
            view = views.get(number, RoundView(number, state="spooled"))
            view = replace(view, codec=entry.contribution.codec)
            if receipt is not None and not entry.counted:
                reason = receipt.reason or "another_contribution"
                remedy = remedy_of(reason)
                view = replace(view, state="refused", weight=None, reason=reason, remedy=remedy)
            elif receipt is not None:
                view = replace(view, state="counted", weight=receipt.weight)
            views[number] = view
        return tuple(views[number] for number in sorted(views))

    def _spooled(self, entry: Entry) -> SpoolView:
        made, receipt = entry.contribution, entry.receipt
        moments = folder_of(self.home.spool, made.round) / MOMENTS if made.moments_digest else None
        return SpoolView(
            round=made.round,
            state=entry.state,
            codec=made.codec,
            sent_bytes=int(made.metrics[METRIC_SENT_BYTES]),
            moments_bytes=_size(moments) if moments else 0,
            distortion=made.metrics[METRIC_DISTORTION],
            counted=entry.counted,
            weight=receipt.weight if receipt else None,
            reason=receipt.reason if receipt else None,
            fate=entry.fate,
        )

    def _premium(self, settings: NodeSettings) -> PremiumView | None:
        """What the shadow has found; None where there is none, and never was."""
        try:
            record = read_record(self.home.shadow)
        except ShadowError as error:
            return PremiumView(shared=False, ended=str(error))
        if record is None:
            return None if settings.shadow is None else PremiumView(shared=settings.shadow.share)
        ended = str((find_json(self.home.shadow / RECORD) or {}).get("ended", ""))
        return premium_view(record, settings, ended)

    def _machine(self) -> MachineView:
        now = self._wall()
        if self._slow is None or not 0 <= now - self._slow[0] < SLOWLY_S:
            self._slow = (now, machine.folder_bytes(self.home.folder), machine.gpus())
        disk = shutil.disk_usage(self.home.folder)
        used, memory = machine.memory()
        return MachineView(
            cores=os.cpu_count() or 1,
            load=machine.load(),
            memory=used,
            memory_total=memory,
            gpus=self._slow[2],
            disk_free=disk.free,
            disk_total=disk.total,
            home_bytes=self._slow[1],
        )

    def _epsilon(self, settings: NodeSettings, records: Rows) -> float | None:
        """What has been spent; None where training is not private, or nobody can say."""
        if settings.privacy is None:
            return None
        from gobelin.client.privacy.budget import Spent
        from gobelin.client.site_policy import read_policy

        try:
            return Spent.of(records).epsilon(read_policy(self.home).delta)
        except GobelinError:
            return None


def _size(file: Path) -> int:
    """Bytes of a file; none where it has just been dropped."""
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0


def premium_view(record: Record, settings: NodeSettings, ended: str = "") -> PremiumView:
    """A shadow's record as it is shown."""
    told = record.premium()
    federated = sum(seconds for _, seconds in record.trained.values())
    every = record.spent_s + federated
    gone = "" if settings.shadow is not None else "node.toml has no [shadow] any more"
    return PremiumView(
        measure=record.measure,
        points=None if told is None else told.points,
        error=None if told is None else told.error,
        consensus=None if told is None else told.consensus,
        solo=None if told is None else told.solo,
        today=None if told is None else told.today,
        seen_samples=record.solo_samples,
        contributed=record.contributed,
        held_out=record.held_out,
        share=record.spent_s / every if every else 0.0,
        from_round=record.from_round,
        waited_s=record.waited_s,
        shared=settings.shadow is not None and settings.shadow.share,
        grown=len(record.data) > 1,
        ended=ended or gone,
        history=tuple(
            PremiumPoint(point.samples, beside - point.percent, beside, point.percent)
            for point, beside in premiums(record.consensus, record.solo)
        ),
    )
