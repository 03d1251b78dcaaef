"""The aggregator's metrics, each a figure of the overview; docs/observability.md has the table.

Alerts are exported as they are judged (`alerts`), so that the page, `status` and Prometheus's rules
say the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from gobelin.server.alerts import Code, Severity, is_silent
from gobelin.server.overview import MemberView, NodeView, Overview, ProcessView, RoundPoint
from gobelin.server.reasons import RefusalCode
from gobelin.server.round_state import Phase
from gobelin.shared.metrics import Family, Sample, many, of_the_look, one

COMMON = ("federation",)
PRE = "gobelin_aggregator_"
REASONS = frozenset(str(code) for code in RefusalCode)
Samples = Iterable[Sample]


def labels_of(overview: Overview) -> dict[str, str]:
    """What every sample is of."""
    return {"federation": overview.federation}


# ---------------------------------------------------------------- the federation and its rounds


def _states(of: Overview) -> Samples:
    sealed = of.sealed or 0
    is_open = int(of.open is not None)
    states = {"sealed": sealed, "open": is_open, "planned": max(0, of.rounds - sealed - is_open)}
    return [((state,), count) for state, count in states.items()]


def _phases(of: Overview) -> Samples:
    now = of.open.phase if of.open else str(Phase.SEALED)
    return [((str(phase),), int(phase == now)) for phase in Phase]


def _standing(of: Overview) -> Samples:
    opened = of.open
    found = {"in": 0, "late": 0, "awaited": 0, "refused": 0}
    if opened is not None:
        refused = {refusal.node for refusal in opened.refused} - set(opened.nodes)
        found = {
            "in": len(opened.nodes),
            "late": len(opened.late),
            "awaited": len(set(opened.owing) - refused),
            "refused": len(refused),
        }
    return [((state,), count) for state, count in found.items()]


def _opened(of: Overview) -> float | None:
    return of.at - of.open.opened if of.open and of.open.opened else None


def _present(of: Overview) -> int:
    return sum(bool(member.nodes) for member in of.members)


def _releases(of: Overview) -> Samples:
    found = Counter(release.verified for release in of.releases)
    return [((verdict,), found[verdict]) for verdict in ("holds", "broken", "unknown")]


def _newest(of: Callable[[Any], float | int]) -> Callable[[Overview], float | int | None]:
    return lambda overview: of(overview.releases[0]) if overview.releases else None


def _alerts(of: Overview) -> Samples:
    """Every code, zero where nothing is wrong; and what is, where that is a name of few."""
    few = {f"{node.member}/{node.name}" for node in of.nodes}
    few |= {node.name for node in of.nodes} | {member.name for member in of.members}
    few |= {process.name for process in of.processes}
    severities = [str(severity) for severity in Severity]
    counts = Counter({(str(code), severity, ""): 0 for code in Code for severity in severities})
    for alert in of.alerts:
        where = alert.where if alert.where in few else ""
        counts[str(alert.code), str(alert.severity), where] += 1
    return [(key, count) for key, count in sorted(counts.items())]


FEDERATION: list[Family[Overview]] = [
    *of_the_look(PRE),
    one(f"{PRE}running", "Whether `up` runs.", lambda of: int(of.running)),
    one(f"{PRE}finished", "Whether the last planned round is sealed.", lambda of: int(of.finished)),
    one(f"{PRE}failed", "Whether an error stopped the rounds.", lambda of: bool(of.failure)),
    many(f"{PRE}rounds", "Rounds by state.", ["state"], _states),
    one(f"{PRE}rounds_sealed_total", "Rounds that are sealed.", lambda of: of.sealed),
    one(
        f"{PRE}round",
        "The open round; the last one when all are sealed.",
        lambda of: of.open.round if of.open else of.sealed,
    ),
    one(
        f"{PRE}round_attempt",
        "Attempt of the open round.",
        lambda of: of.open.attempt if of.open else None,
    ),
    many(f"{PRE}round_phase", "1 for the phase the round is in.", ["phase"], _phases),
    one(f"{PRE}round_open_seconds", "Since the open round was opened.", _opened),
    one(
        f"{PRE}round_deadline_timestamp_seconds",
        "When this attempt ends.",
        lambda of: of.open.deadline if of.open else None,
    ),
    one(
        f"{PRE}round_members_needed",
        "Members the open round needs.",
        lambda of: of.open.needed if of.open else None,
    ),
    one(
        f"{PRE}round_members_in",
        "Members of whom an answer counts in it.",
        lambda of: len(of.open.members) if of.open else None,
    ),
    many(f"{PRE}round_nodes", "Nodes by how they stand in the open round.", ["state"], _standing),
    one(f"{PRE}members", "Members on the roster.", _present),
    one(f"{PRE}enrolments_waiting", "Nodes that wait to be admitted.", lambda of: len(of.waiting)),
    many(f"{PRE}alert", "Alerts now, by code.", ["code", "severity", "where"], _alerts),
    many(f"{PRE}releases", "Releases, by whether they verify.", ["verified"], _releases),
    one(f"{PRE}release_round", "Round of the newest release.", _newest(lambda r: r.round)),
    one(
        f"{PRE}release_issued_timestamp_seconds",
        "When the newest release was issued.",
        _newest(lambda r: r.issued),
    ),
    one(
        f"{PRE}release_expires_timestamp_seconds",
        "When it ends.",
        _newest(lambda r: r.expires),
    ),
    one(f"{PRE}release_bytes", "Its size.", _newest(lambda r: r.bytes)),
    one(
        f"{PRE}release_head_points_lost",
        "Points that linear heads of the release before lose on it.",
        _newest(lambda r: r.head_points_lost),
    ),
    one(
        f"{PRE}ledger_records",
        "Leaves under the ledger's newest head.",
        lambda of: of.ledger.size if of.ledger else None,
    ),
    one(
        f"{PRE}ledger_head_cosignatures",
        "Nodes that have cosigned the newest head.",
        lambda of: len(of.ledger.cosigned_by) if of.ledger else None,
    ),
    one(
        f"{PRE}ledger_witnessed_records",
        "Leaves under the newest head that any node has cosigned.",
        lambda of: of.ledger.witnessed if of.ledger else None,
    ),
    one(f"{PRE}disk_free_bytes", "Free on the home's disk.", lambda of: of.disk.free),
    one(f"{PRE}disk_size_bytes", "Size of that disk.", lambda of: of.disk.total),
    one(f"{PRE}disk_round_bytes", "What a round takes of it.", lambda of: of.disk.round_bytes),
    one(
        f"{PRE}clock_ahead_seconds",
        "How far records lie in the future.",
        lambda of: of.clock_ahead,
    ),
    one(
        f"{PRE}certificate_expires_timestamp_seconds",
        "When the server's certificate ends.",
        lambda of: of.certificate_expires,
    ),
]


# ---------------------------------------------------------------- the last sealed round


def _last(name: str, help: str, of: Callable[[RoundPoint], float | int | None]) -> Family[Overview]:
    """A figure of the last sealed round."""
    return one(
        f"{PRE}last_round_{name}",
        help,
        lambda overview: of(overview.history[-1]) if overview.history else None,
    )


def _signs(of: Overview) -> Samples:
    last = of.history[-1] if of.history else None
    shares = {"most": last.sign_most, "all": last.sign_all} if last else {}
    return [((share,), value) for share, value in shares.items()]


LAST_ROUND: list[Family[Overview]] = [
    _last("sealed_timestamp_seconds", "When it was sealed.", lambda p: p.sealed),
    _last("duration_seconds", "How long it took.", lambda p: p.seconds),
    _last("overhead_seconds", "Of that, beside local steps.", lambda p: p.overhead),
    _last("attempts", "Attempts it took.", lambda p: p.attempts),
    _last("contributions", "Contributions in it.", lambda p: p.contributions),
    _last("contributions_late", "Of them, to an earlier round.", lambda p: p.late),
    _last("refused", "Nodes that were refused.", lambda p: p.refused),
    _last("absent", "Nodes with a seat and no answer.", lambda p: p.absent),
    _last("sent_bytes", "Of all contributions.", lambda p: p.sent),
    _last("received_bytes", "That nodes were sent.", lambda p: p.received),
    _last("loss", "Mean over contributions.", lambda p: p.loss),
    _last("loss_least", "The least of them.", lambda p: p.loss_least),
    _last("loss_most", "The largest of them.", lambda p: p.loss_most),
    _last("prediction_loss", "Mean of the prediction term.", lambda p: p.prediction),
    _last("probe_score", "Mean score on the public probe.", lambda p: p.probe),
    _last("effective_rank", "Mean effective rank of embeddings.", lambda p: p.rank),
    _last("sigreg", "Mean SIGReg statistic T, at the reference batch N.", lambda p: p.sigreg),
    one(f"{PRE}sigreg_floor", "T of a perfect Gaussian.", lambda of: of.sigreg_floor),
    one(f"{PRE}sigreg_collapsed", "T of a single point.", lambda of: of.sigreg_collapsed),
    one(f"{PRE}sigreg_batch_size", "The reference batch N.", lambda of: of.reference_batch),
    _last("distortion_ratio", "Mean distortion by the codecs.", lambda p: p.distortion),
    _last("premium", "Mean federation premium that members tell.", lambda p: p.premium),
    _last("cosine", "Mean cosine of members' deltas, over pairs.", lambda p: p.cosine),
    many(
        f"{PRE}last_round_sign_agreement_ratio",
        "Share of coordinates that most, or all, members move the same way.",
        ["share"],
        _signs,
    ),
    _last(
        "retained_norm_ratio",
        "Length beside the mean delta.",
        lambda p: p.retained,
    ),
    _last("frame_rotation_degrees", "Turn of the frame against the base.", lambda p: p.rotation),
]


# ---------------------------------------------------------------- members, nodes, processes


def _members(
    name: str, help: str, of: Callable[[MemberView], float | int | None]
) -> Family[Overview]:
    def samples(overview: Overview) -> Samples:
        return [((member.name,), of(member)) for member in overview.members]

    return many(f"{PRE}member_{name}", help, ["member"], samples)


def _nodes(name: str, help: str, of: Callable[[NodeView], float | int | None]) -> Family[Overview]:
    def samples(overview: Overview) -> Samples:
        return [((node.member, node.name), of(node)) for node in overview.nodes]

    return many(f"{PRE}node_{name}", help, ["member", "node"], samples)


def _refusals(of: Overview) -> Samples:
    """By code; a code of another version counts as `other`."""
    for node in of.nodes:
        codes: Counter[str] = Counter()
        for reason, count in node.refused.items():
            codes[reason if reason in REASONS else "other"] += count
        yield from (((node.member, node.name, code), n) for code, n in sorted(codes.items()))


def _online(of: Overview) -> Samples:
    for node in of.nodes:
        online = of.running and node.seen is not None and not is_silent(node, of.at)
        yield (node.member, node.name), int(online)


def _processes(
    name: str, help: str, of: Callable[[ProcessView], float | int | None]
) -> Family[Overview]:
    def samples(overview: Overview) -> Samples:
        return [((process.name,), of(process)) for process in overview.processes]

    return many(f"{PRE}process_{name}", help, ["process"], samples)


PARTS: list[Family[Overview]] = [
    _members("influence_ratio", "Share of influence in the last round.", lambda m: m.influence),
    _members("influence_so_far_ratio", "Share of all influence so far.", lambda m: m.share),
    _members("reduced_reasons", "Codes by which it counted for less.", lambda m: len(m.reduced)),
    _members("minority_loss_ratio", "Of its voice, discarded.", lambda m: m.minority_loss),
    many(f"{PRE}node_online", "Whether it is heard of.", ["member", "node"], _online),
    _nodes("last_seen_timestamp_seconds", "Its last heartbeat.", lambda n: n.seen),
    _nodes("session_start_timestamp_seconds", "When its session began.", lambda n: n.since),
    _nodes("contributions_total", "Answers that counted.", lambda n: n.contributed),
    _nodes("contributions_late_total", "Of them, to an earlier round.", lambda n: n.late),
    _nodes("absent_total", "Rounds with a seat and no answer.", lambda n: n.absent),
    many(f"{PRE}node_refused_total", "Refusals, by code.", ["member", "node", "reason"], _refusals),
    _nodes("sent_bytes_total", "Of contributions that counted.", lambda n: n.sent),
    _nodes("received_bytes_total", "Of bases and steps.", lambda n: n.received),
    _nodes("training_seconds_total", "Of local steps.", lambda n: n.seconds),
    _nodes("last_round", "That counted an answer of it.", lambda n: n.last_round),
    _nodes("last_local_steps", "Of that answer.", lambda n: n.local_steps),
    _nodes("last_sent_bytes", "Of that answer.", lambda n: n.sent_bytes),
    _nodes("last_distortion_ratio", "Of that answer.", lambda n: n.distortion),
    _nodes("last_loss", "Of that answer.", lambda n: n.loss),
    _processes("up", "Whether the child runs.", lambda p: int(p.alive)),
    _processes("restarts_total", "Since `up` was started.", lambda p: p.restarts),
    _processes("start_timestamp_seconds", "When it was last started.", lambda p: p.started),
    _processes("resident_memory_bytes", "With what it has started.", lambda p: p.memory),
]

FAMILIES: list[Family[Overview]] = [*FEDERATION, *LAST_ROUND, *PARTS]
