"""Alerts: what an operator has to know now, judged from an overview and from nothing else.

Each says what is found, where, and the next command. `docs/page.md` has the whole list.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from gobelin.server.reasons import RefusalCode
from gobelin.shared.alarm import LINE_RANK, POINT_SCORE, RANK_KEPT

if TYPE_CHECKING:
    from gobelin.server.overview import NodeView, OpenView, Overview

SILENT_S = 30.0  # nodes beat every 4 s; the SuperLink calls one offline after 20
WAITS_S = 60.0  # a round is never called stuck sooner …
WAITS_ROUNDS = 2.0  # … nor before this many of the usual rounds
USUAL = 10  # rounds that say what is usual
DEADLINE_NEAR = 0.8  # share of it that is over
DISK_ROUNDS = 10  # rounds that must still fit
DISK_LEAST = 1 << 30
EXPIRES_S = 14 * 86_400.0  # a release's or certificate's end is told this long before
CLOCK_S = 60.0  # what envelopes allow
RESTARTS = 3


class Severity(StrEnum):
    """How soon it wants a person."""

    CRITICAL = "critical"  # the federation does not go on, or what it made is in doubt
    WARNING = "warning"  # it goes on, and will not for long, or not for all
    NOTICE = "notice"  # worth knowing


class Code(StrEnum):
    """What an alert is about; a code is for ever."""

    NOT_RUNNING = "not_running"
    FAILED = "failed"
    PROCESS_DOWN = "process_down"
    PROCESS_RESTARTS = "process_restarts"
    QUORUM_IMPOSSIBLE = "quorum_impossible"
    ROUND_STUCK = "round_stuck"
    ROUND_VOID = "round_void"
    NODE_SILENT = "node_silent"
    NODE_NEVER_SEEN = "node_never_seen"
    NODE_REFUSED = "node_refused"
    COLLAPSE = "collapse"
    MINORITY_LOSS = "minority_loss"
    DISK_FULL = "disk_full"
    RELEASE_OVERDUE = "release_overdue"
    RELEASE_EXPIRES = "release_expires"
    RELEASE_BROKEN = "release_broken"
    CLOCK = "clock"
    CERTIFICATE_EXPIRES = "certificate_expires"
    ENROLMENT_WAITS = "enrolment_waits"
    PAUSED = "paused"


@dataclass(frozen=True, slots=True)
class Alert:
    """One thing that an operator has to know."""

    code: Code
    severity: Severity
    what: str
    where: str  # node, member, round, process or release; "" for the whole
    command: str  # the next one


def alerts_of(overview: Overview) -> tuple[Alert, ...]:
    """All alerts, the most urgent first; a pure function."""
    found = [alert for look in LOOKS for alert in look(overview)]
    order = list(Severity)
    return tuple(sorted(found, key=lambda alert: order.index(alert.severity)))


def ago(seconds: float) -> str:
    """A length of time as people say it: 40 s, 3 min, 2 h, 5 d."""
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


# ---------------------------------------------------------------- the aggregator itself


def _engine(of: Overview) -> Iterator[Alert]:
    if of.finished:
        return
    up = "gobelin aggregator up"
    if of.failure:
        what = f"the rounds have stopped: {of.failure}"
        yield Alert(Code.FAILED, Severity.CRITICAL, what, _round(of), up)
    elif not of.running:
        what = "the aggregator is not running, so no round goes on"
        yield Alert(Code.NOT_RUNNING, Severity.CRITICAL, what, "", up)
    if of.paused is not None:
        remedy = "gobelin aggregator resume"
        yield Alert(Code.PAUSED, Severity.NOTICE, str(of.paused), "", remedy)
    for child in of.processes if of.running else ():
        if not child.alive:
            what = f"{child.name} does not answer: it has ended or is stopped"
            severity = Severity.WARNING if child.name == "page" else Severity.CRITICAL
            yield Alert(Code.PROCESS_DOWN, severity, what, child.name, _log(child.name))
        elif child.restarts >= RESTARTS:
            what = f"{child.name} was restarted {child.restarts} times since `up` was started"
            command = _log(child.name)
            yield Alert(Code.PROCESS_RESTARTS, Severity.WARNING, what, child.name, command)


def _log(process: str) -> str:
    return f"grep {process} logs/aggregator.log | tail -n 50"


def _round(of: Overview) -> str:
    return f"round {of.open.round}" if of.open else ""


# ---------------------------------------------------------------- the open round


def is_silent(node: NodeView, now: float) -> bool:
    """Whether nothing was heard of a node for longer than a healthy one is quiet."""
    return node.seen is not None and now - node.seen > SILENT_S


def _awaited(of: Overview) -> list[NodeView]:
    """Contributors whose answer the open round still lacks; before it opens, all."""
    opened, nodes = of.open, [node for node in of.nodes if node.role == "contributor"]
    if opened is None:
        return []
    if opened.phase == "open":
        return nodes
    return [node for node in nodes if node.name in opened.owing]


def usual_seconds(of: Overview) -> float | None:
    """What a round takes, the median of the last ones; None before the first."""
    last = [point.seconds for point in of.history[-USUAL:]]
    return statistics.median(last) if last else None


def _stuck(of: Overview) -> Iterator[Alert]:
    """A round that cannot reach its quorum, or waits far longer than rounds do."""
    opened = of.open
    if opened is None or not of.running or (of.paused and opened.phase == "open"):
        return
    where, status = f"round {opened.round}", "gobelin aggregator status"
    able = {node.member for node in of.nodes if _may_answer(node, opened, of.at)}
    able |= set(opened.members)
    if len(able) < opened.needed:
        away = [node for node in _awaited(of) if not _may_answer(node, opened, of.at)]
        names = _list(f"{node.member}/{node.name}" for node in away) or "members to be admitted"
        what = (
            f"round {opened.round} needs {opened.needed} members and only {len(able)} can answer; "
            f"it waits for {names}"
        )
        yield Alert(Code.QUORUM_IMPOSSIBLE, Severity.CRITICAL, what, where, status)
    waited = of.at - opened.opened if opened.opened else 0.0
    usual = usual_seconds(of)
    patience = max(WAITS_S, WAITS_ROUNDS * (usual or 0.0))
    length = opened.deadline - opened.opened if opened.deadline and opened.opened else None
    if usual is None and length is not None:
        patience = max(WAITS_S, DEADLINE_NEAR * length)
    if opened.phase != "void" and waited > patience:
        yield Alert(Code.ROUND_STUCK, Severity.WARNING, _waits(of, opened, waited), where, status)
    if opened.phase == "void" or opened.attempt > 1:
        why = f": {opened.says}" if opened.says else ""
        what = f"round {opened.round} had too few contributions and is tried again{why}"
        yield Alert(Code.ROUND_VOID, Severity.WARNING, what, where, status)


def _may_answer(node: NodeView, opened: OpenView, now: float) -> bool:
    """Whether a node may still answer, or has: it beats, and was not refused."""
    if node.role != "contributor":
        return False
    return node.name in opened.nodes or (
        node.seen is not None and not is_silent(node, now) and node.state != "refused"
    )


def _waits(of: Overview, opened: OpenView, waited: float) -> str:
    """What a round waits for, in words."""
    told = [f"{node.member}/{node.name} ({_seen(node, of.at)})" for node in _awaited(of)]
    usual = usual_seconds(of)
    than = f"; the last rounds took {ago(usual)}" if usual else ""
    left = opened.deadline - of.at if opened.deadline else 0.0
    by = f"; its deadline is in {ago(left)}" if left > 0 else ""
    names = f" for {_list(told)}" if told else ""
    return f"round {opened.round} has waited {ago(waited)}{names}{than}{by}"


def _seen(node: NodeView, now: float) -> str:
    if node.seen is None:
        return "never seen"
    return f"last seen {ago(now - node.seen)} ago" if is_silent(node, now) else "online"


def _list(names: Iterator[str] | list[str], most: int = 5) -> str:
    """A few names, and how many more there are."""
    told = list(names)
    more = f" and {len(told) - most} more" if len(told) > most else ""
    return ", ".join(told[:most]) + more


# ---------------------------------------------------------------- nodes


def _nodes(of: Overview) -> Iterator[Alert]:
    """Silence is told while the aggregator runs: else nobody is there to hear anybody."""
    link = next((child for child in of.processes if child.name == "superlink"), None)
    if not of.running or of.finished or (link is not None and not link.alive):
        return
    awaited = {node.name for node in _awaited(of)}
    for node in of.nodes:
        where, wanted = f"{node.member}/{node.name}", node.name in awaited
        command = f"gobelin doctor --home HOME  # on the machine of {where}, with its home"
        severity = Severity.WARNING if wanted else Severity.NOTICE
        if node.role != "contributor":
            continue
        if node.seen is None:
            what = f"{where} is on the roster and has never been online"
            yield Alert(Code.NODE_NEVER_SEEN, Severity.NOTICE, what, where, command)
        elif is_silent(node, of.at):
            waits = f"; {_round(of)} waits for it" if wanted else ""
            what = f"{where} was last seen {ago(of.at - node.seen)} ago{waits}"
            yield Alert(Code.NODE_SILENT, severity, what, where, command)
    for one in of.open.refused if of.open else ():
        if one.reason == RefusalCode.BASE_MISSING:
            continue  # it is being sent the whole base
        if one.reason == RefusalCode.PAUSED:
            what = f"{one.node} takes no part for now: its operator has paused it"
            yield Alert(Code.PAUSED, Severity.NOTICE, what, one.node, "wait, or ask its operator")
            continue
        meaning = next((code.meaning for code in RefusalCode if code == one.reason), "")
        what = f"{one.node} was refused in {_round(of)}: {one.reason} ({one.found or meaning})"
        command = f"gobelin aggregator status --node {one.node}"
        yield Alert(Code.NODE_REFUSED, Severity.WARNING, what, one.node, command)


# ---------------------------------------------------------------- what is made


def _model(of: Overview) -> Iterator[Alert]:
    """The representation's health, by the figures of the last rounds."""
    if not of.history:
        return
    last = of.history[-1]
    where, command = f"round {last.round}", f"gobelin aggregator status --round {last.round}"
    ranks = [point.rank for point in of.history if point.rank is not None]
    found = ""
    if last.sigreg is not None and of.reference_batch:
        share = last.sigreg / of.reference_batch
        if share > POINT_SCORE:
            found = f"SIGReg is at {share:.2f} of the batch, and 0.41 is one point"
    if last.rank is not None and last.rank < LINE_RANK:
        found = f"effective rank {last.rank:.2f}: embeddings differ along one line"
    elif last.rank is not None and last.rank < RANK_KEPT * max(ranks):
        found = f"effective rank {last.rank:.2f}, once {max(ranks):.2f}"
    if found:
        what = f"the model is collapsing: {found}"
        yield Alert(Code.COLLAPSE, Severity.CRITICAL, what, where, command)
    for member in of.members:
        if member.minority_loss is not None and member.minority_loss > 0.5:
            what = f"{where} discarded {member.minority_loss:.0%} of what {member.name} taught"
            yield Alert(Code.MINORITY_LOSS, Severity.NOTICE, what, member.name, command)


def _releases(of: Overview) -> Iterator[Alert]:
    for release in of.releases:
        if release.verified == "broken":
            what = f"{release.name} does not verify: {release.found}"
            command = f"gobelin verify releases/{release.name}"
            yield Alert(Code.RELEASE_BROKEN, Severity.CRITICAL, what, release.name, command)
    sealed, newest = of.sealed or 0, of.releases[0] if of.releases else None
    due = sealed if of.finished else sealed - sealed % of.release_every
    if due and (newest is None or newest.round < due) and of.at - _sealed_at(of, due) > WAITS_S:
        what = f"round {due} is due for release and is not published"
        command = "gobelin aggregator up"
        yield Alert(Code.RELEASE_OVERDUE, Severity.WARNING, what, f"round {due}", command)
    if newest is not None and newest.expires - of.at < EXPIRES_S:
        left = newest.expires - of.at
        when = f"expires in {ago(left)}" if left > 0 else f"expired {ago(-left)} ago"
        what = f"{newest.name}, the newest, {when}: nodes and builds will refuse it then"
        command = "gobelin aggregator up  # the next release is due every rounds.release_every"
        yield Alert(Code.RELEASE_EXPIRES, Severity.WARNING, what, newest.name, command)


def _sealed_at(of: Overview, number: int) -> float:
    at = next((point.sealed for point in reversed(of.history) if point.round == number), None)
    return at or 0.0


# ---------------------------------------------------------------- the machine


def _machine(of: Overview) -> Iterator[Alert]:
    disk = of.disk
    wanted = max(DISK_LEAST, DISK_ROUNDS * disk.round_bytes)
    if disk.free < wanted:
        severity = Severity.CRITICAL if disk.free < wanted / 4 else Severity.WARNING
        what = (
            f"the aggregator's disk has {disk.free / 1e9:.1f} GB left; a round takes "
            f"{disk.round_bytes / 1e6:.0f} MB"
        )
        yield Alert(Code.DISK_FULL, severity, what, "disk", "df -h .")
    if of.clock_ahead > CLOCK_S:
        what = f"something is recorded {ago(of.clock_ahead)} in the future: this clock went back"
        yield Alert(Code.CLOCK, Severity.WARNING, what, "clock", "timedatectl status")
    if of.certificate_expires is not None and of.certificate_expires - of.at < EXPIRES_S:
        left = of.certificate_expires - of.at
        severity = Severity.WARNING if left > 0 else Severity.CRITICAL
        when = f"expires in {ago(left)}" if left > 0 else f"expired {ago(-left)} ago"
        what = f"the server's certificate {when}; nodes do not connect to one that has"
        command = "gobelin aggregator renew-certificate"
        yield Alert(Code.CERTIFICATE_EXPIRES, severity, what, "certificate", command)
    for name in of.waiting:
        what = f"{name} waits to be admitted"
        command = "gobelin aggregator requests"
        yield Alert(Code.ENROLMENT_WAITS, Severity.NOTICE, what, name, command)


LOOKS = (_engine, _stuck, _nodes, _model, _releases, _machine)
