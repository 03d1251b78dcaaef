"""A node's metrics, each a figure of its overview; docs/observability.md has the table.

They are for this node's operator. No note, path, sample or label is among them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

from gobelin.client.overview import MachineView, Overview, PremiumView
from gobelin.shared.metrics import Family, Sample, many, of_the_look, one

COMMON = ("member", "node")
PRE = "gobelin_node_"
MB = 1e6
STATES = ("idle", "waiting", "training", "shadow", "sending", "paused", "warning", "finished")
Samples = Iterable[Sample]


def labels_of(overview: Overview) -> dict[str, str]:
    """What every sample is of."""
    return {"member": overview.member, "node": overview.node}


def _states(of: Overview) -> Samples:
    now = of.status.state
    return [((state,), int(state == now)) for state in sorted({*STATES, now})]


def _rounds(of: Overview) -> Samples:
    found = Counter(view.state for view in of.rounds)
    return [((state,), found[state]) for state in ("spooled", "sent", "counted", "refused")]


def _purposes(of: Overview) -> Samples:
    return [((purpose,), size) for purpose, size in sorted(of.left.by_purpose.items())]


def _weight(of: Overview) -> float | None:
    return next((view.weight for view in reversed(of.rounds) if view.weight is not None), None)


def _spooled(of: Overview) -> int:
    return sum(each.sent_bytes + each.moments_bytes for each in of.spool)


def _gpus(name: str, help: str, of: Callable[[MachineView, int], float]) -> Family[Overview]:
    def samples(overview: Overview) -> Samples:
        gpus = range(len(overview.machine.gpus))
        return [((str(index),), of(overview.machine, index)) for index in gpus]

    return many(f"{PRE}gpu_{name}", help, ["gpu"], samples)


def _premium(name: str, help: str, of: Callable[[PremiumView], float | None]) -> Family[Overview]:
    """A figure of the shadow; none without one."""
    return one(
        f"{PRE}premium{name}",
        help,
        lambda overview: of(overview.premium) if overview.premium else None,
    )


FAMILIES: list[Family[Overview]] = [
    *of_the_look(PRE),
    one(f"{PRE}running", "Whether `run` runs.", lambda of: int(of.running)),
    one(
        f"{PRE}silent",
        "Whether it is busy and has said nothing for a minute.",
        lambda of: int(of.silent),
    ),
    many(f"{PRE}state", "1 for what it is doing.", ["state"], _states),
    one(f"{PRE}last_status_timestamp_seconds", "When it said so.", lambda of: of.status_at),
    one(f"{PRE}round", "The round it works on.", lambda of: of.status.round),
    one(f"{PRE}rounds_planned", "Rounds of the federation.", lambda of: of.rounds_planned),
    one(f"{PRE}step", "Local step it has taken.", lambda of: of.status.step),
    one(f"{PRE}steps", "Local steps of this round.", lambda of: of.status.steps),
    one(f"{PRE}samples_per_second", "Training rate.", lambda of: of.status.samples_per_second),
    one(f"{PRE}loss", "Of the last local steps.", lambda of: of.status.loss),
    one(f"{PRE}effective_rank", "Of the last local steps.", lambda of: of.status.effective_rank),
    one(
        f"{PRE}training_left_seconds",
        "Until this round's local steps are done.",
        lambda of: of.next.done_s,
    ),
    one(
        f"{PRE}round_interval_seconds",
        "Usual time from one round to the next.",
        lambda of: of.next.round_s,
    ),
    one(
        f"{PRE}next_round_timestamp_seconds",
        "When the next plan may come.",
        lambda of: of.next.next_at,
    ),
    one(
        f"{PRE}finished_timestamp_seconds",
        "When the last round may be over.",
        lambda of: of.next.finished_at,
    ),
    many(f"{PRE}rounds", "Rounds it took part in, by what became of it.", ["state"], _rounds),
    one(f"{PRE}last_weight_ratio", "Weight of the last contribution that counted.", _weight),
    one(f"{PRE}mean_weight_ratio", "Mean weight of those that counted.", lambda of: of.mean_weight),
    one(
        f"{PRE}last_distortion_ratio",
        "Of the contribution last sent.",
        lambda of: of.status.distortion,
    ),
    one(f"{PRE}departures_total", "Contributions that left.", lambda of: of.left.departures),
    one(f"{PRE}egress_wire_bytes_total", "All that left.", lambda of: of.left.wire_bytes),
    one(f"{PRE}egress_requests_total", "Requests that carried it.", lambda of: of.left.requests),
    many(f"{PRE}egress_bytes_total", "What left, by purpose.", ["purpose"], _purposes),
    one(f"{PRE}egress_ledger_records", "Records of the egress ledger.", lambda of: of.left.records),
    one(
        f"{PRE}egress_ledger_broken",
        "Whether its chain is broken.",
        lambda of: int(bool(of.left.broken)),
    ),
    one(
        f"{PRE}upload_bytes_per_second",
        "As measured over the last sends.",
        lambda of: of.upload_bytes_per_second,
    ),
    one(f"{PRE}spool_bytes", "Payloads that lie in the spool.", _spooled),
    one(f"{PRE}privacy_epsilon", "ε spent, where training is private.", lambda of: of.epsilon),
    _premium("_points", "Federation premium, in points.", lambda p: p.points),
    _premium("_error_points", "Half of its 95 % interval.", lambda p: p.error),
    _premium("_consensus_percent", "The consensus on held-out data.", lambda p: p.consensus),
    _premium("_solo_percent", "The solo model on the same.", lambda p: p.solo),
    _premium(
        "_time_share_ratio", "Share of training time that the shadow takes.", lambda p: p.share
    ),
    _premium("_solo_samples", "Samples the solo model has seen.", lambda p: p.seen_samples),
    one(f"{PRE}cpu_cores", "Of the machine.", lambda of: of.machine.cores),
    one(f"{PRE}load1", "Processes that want to run, mean of a minute.", lambda of: of.machine.load),
    one(f"{PRE}memory_used_bytes", "Of the machine.", lambda of: of.machine.memory),
    one(f"{PRE}memory_size_bytes", "Of the machine.", lambda of: of.machine.memory_total),
    one(
        f"{PRE}peak_resident_memory_bytes",
        "Most the node has held.",
        lambda of: of.status.peak_mb * MB,
    ),
    one(f"{PRE}disk_free_bytes", "Of the home's disk.", lambda of: of.machine.disk_free),
    one(f"{PRE}disk_size_bytes", "Of the home's disk.", lambda of: of.machine.disk_total),
    one(f"{PRE}home_bytes", "What the home takes of it.", lambda of: of.machine.home_bytes),
    _gpus("busy_ratio", "How busy a GPU is.", lambda machine, i: machine.gpus[i].busy),
    _gpus("memory_used_bytes", "Memory in use on it.", lambda machine, i: machine.gpus[i].memory),
    _gpus("memory_size_bytes", "Its memory.", lambda machine, i: machine.gpus[i].memory_total),
]
