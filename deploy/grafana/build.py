"""Writes gobelin.json, the Grafana dashboard: `python deploy/grafana/build.py`.

A test compares the file with what this writes, and every expression with what is exported. It is
long for it is a list: a panel a figure, in the order in which they stand.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FILE = Path(__file__).parent / "gobelin.json"
UID = "gobelin-federation"
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
WIDTH, HEIGHT, COLUMNS = 8, 7, 24
A, N = "gobelin_aggregator_", "gobelin_node_"
F = '{federation="$federation"}'
M = '{federation="$federation", member=~"$member"}'
MN = '{federation="$federation", member=~"$member", node=~"$node"}'
OWN = '{member=~"$member", node=~"$node"}'  # a node's own metrics
WHO = "{{member}}/{{node}}"

Query = tuple[str, str]  # expression, legend
Panel = tuple[str, str, str, list[Query]]  # kind, title, unit, queries

ROWS: list[tuple[str, list[Panel]]] = [
    (
        "Now",
        [
            ("stat", "Running", "bool_on_off", [(f"{A}running{F}", "")]),
            ("stat", "Failed", "bool_yes_no", [(f"{A}failed{F}", "")]),
            ("stat", "Round", "none", [(f"{A}round{F}", "")]),
            ("stat", "Attempt", "none", [(f"{A}round_attempt{F}", "")]),
            ("stat", "In this round for", "s", [(f"{A}round_open_seconds{F}", "")]),
            (
                "stat",
                "Until its deadline",
                "s",
                [(f"{A}round_deadline_timestamp_seconds{F} - time()", "")],
            ),
            ("stat", "Phase", "none", [(f"{A}round_phase{F} == 1", "{{phase}}")]),
            (
                "stat",
                "Members in / needed",
                "none",
                [(f"{A}round_members_in{F}", "in"), (f"{A}round_members_needed{F}", "needed")],
            ),
            (
                "stat",
                "Version",
                "none",
                [(f"{A}info{F}", "{{version}}"), (f"{A}finished{F}", "finished")],
            ),
            (
                "table",
                "Alerts",
                "none",
                [(f"sum by (severity, code, where) ({A}alert{F}) > 0", "")],
            ),
            ("timeseries", "Rounds by state", "none", [(f"{A}rounds{F}", "{{state}}")]),
            (
                "timeseries",
                "Rounds sealed an hour",
                "none",
                [(f"increase({A}rounds_sealed_total{F}[1h])", "sealed")],
            ),
            ("timeseries", "Nodes in the round", "none", [(f"{A}round_nodes{F}", "{{state}}")]),
        ],
    ),
    (
        "Members and nodes",
        [
            (
                "timeseries",
                "Online",
                "bool_on_off",
                [(f"{A}node_online{MN}", "{{member}}/{{node}}")],
            ),
            (
                "timeseries",
                "Last heartbeat, ago",
                "s",
                [(f"time() - {A}node_last_seen_timestamp_seconds{MN}", "{{member}}/{{node}}")],
            ),
            (
                "timeseries",
                "Session, age",
                "s",
                [(f"time() - {A}node_session_start_timestamp_seconds{MN}", "{{member}}/{{node}}")],
            ),
            (
                "timeseries",
                "Contributions",
                "none",
                [
                    (f"{A}node_contributions_total{MN}", "{{member}}/{{node}}"),
                    (f"{A}node_contributions_late_total{MN}", "{{member}}/{{node}}, late"),
                    (f"{A}node_absent_total{MN}", "{{member}}/{{node}}, absent"),
                ],
            ),
            (
                "timeseries",
                "Refused, by reason",
                "none",
                [(f"sum by (reason) ({A}node_refused_total{MN})", "{{reason}}")],
            ),
            (
                "timeseries",
                "Share of influence",
                "percentunit",
                [
                    (f"{A}member_influence_ratio{M}", "{{member}}"),
                    (f"{A}member_influence_so_far_ratio{M}", "{{member}}, so far"),
                ],
            ),
            (
                "timeseries",
                "Voice discarded, and reduced",
                "percentunit",
                [
                    (f"{A}member_minority_loss_ratio{M}", "{{member}}"),
                    (f"{A}member_reduced_reasons{M}", "{{member}}, reasons"),
                ],
            ),
            (
                "timeseries",
                "Bytes up",
                "bytes",
                [
                    (f"{A}node_sent_bytes_total{MN}", "{{member}}/{{node}}"),
                    (f"{A}node_last_sent_bytes{MN}", "{{member}}/{{node}}, last"),
                ],
            ),
            (
                "timeseries",
                "Bytes down",
                "bytes",
                [(f"{A}node_received_bytes_total{MN}", "{{member}}/{{node}}")],
            ),
            (
                "timeseries",
                "Training",
                "s",
                [(f"{A}node_training_seconds_total{MN}", "{{member}}/{{node}}")],
            ),
            (
                "timeseries",
                "Last contribution: loss and distortion",
                "none",
                [
                    (f"{A}node_last_loss{MN}", "{{member}}/{{node}}, loss"),
                    (f"{A}node_last_distortion_ratio{MN}", "{{member}}/{{node}}, distortion"),
                ],
            ),
            (
                "timeseries",
                "Last contribution: round and steps",
                "none",
                [
                    (f"{A}node_last_round{MN}", "{{member}}/{{node}}, round"),
                    (f"{A}node_last_local_steps{MN}", "{{member}}/{{node}}, steps"),
                ],
            ),
            (
                "stat",
                "Members, and nodes that wait",
                "none",
                [(f"{A}members{F}", "members"), (f"{A}enrolments_waiting{F}", "wait")],
            ),
        ],
    ),
    (
        "The model",
        [
            (
                "timeseries",
                "Loss",
                "none",
                [
                    (f"{A}last_round_loss{F}", "mean"),
                    (f"{A}last_round_loss_least{F}", "least"),
                    (f"{A}last_round_loss_most{F}", "greatest"),
                    (f"{A}last_round_prediction_loss{F}", "prediction"),
                ],
            ),
            (
                "timeseries",
                "Score on the probe",
                "none",
                [(f"{A}last_round_probe_score{F}", "score")],
            ),
            (
                "timeseries",
                "Effective rank",
                "none",
                [(f"{A}last_round_effective_rank{F}", "effective rank")],
            ),
            (
                "timeseries",
                "SIGReg, T / N",
                "none",
                [
                    (f"{A}last_round_sigreg{F} / {A}sigreg_batch_size{F}", "T / N"),
                    (f"{A}sigreg_floor{F} / {A}sigreg_batch_size{F}", "floor"),
                    (f"{A}sigreg_collapsed{F} / {A}sigreg_batch_size{F}", "collapsed"),
                ],
            ),
            (
                "timeseries",
                "Agreement of deltas",
                "none",
                [
                    (f"{A}last_round_cosine{F}", "cosine"),
                    (f"{A}last_round_sign_agreement_ratio{F}", "sign: {{share}}"),
                ],
            ),
            (
                "timeseries",
                "Retained norm",
                "none",
                [(f"{A}last_round_retained_norm_ratio{F}", "retained norm")],
            ),
            (
                "timeseries",
                "Frame rotation",
                "degree",
                [(f"{A}last_round_frame_rotation_degrees{F}", "rotation")],
            ),
            (
                "timeseries",
                "Federation premium",
                "none",
                [(f"{A}last_round_premium{F}", "premium")],
            ),
            (
                "timeseries",
                "Distortion",
                "percentunit",
                [(f"{A}last_round_distortion_ratio{F}", "distortion")],
            ),
        ],
    ),
    (
        "Rounds",
        [
            (
                "timeseries",
                "Seconds a round",
                "s",
                [
                    (f"{A}last_round_duration_seconds{F}", "round"),
                    (f"{A}last_round_overhead_seconds{F}", "beside training"),
                ],
            ),
            (
                "timeseries",
                "Bytes a round",
                "bytes",
                [
                    (f"{A}last_round_sent_bytes{F}", "from nodes"),
                    (f"{A}last_round_received_bytes{F}", "to nodes"),
                ],
            ),
            (
                "timeseries",
                "Contributions a round",
                "none",
                [
                    (f"{A}last_round_contributions{F}", "counted"),
                    (f"{A}last_round_contributions_late{F}", "late"),
                    (f"{A}last_round_refused{F}", "refused"),
                    (f"{A}last_round_absent{F}", "absent"),
                    (f"{A}last_round_attempts{F}", "attempts"),
                ],
            ),
            (
                "stat",
                "Last round sealed, ago",
                "s",
                [(f"time() - {A}last_round_sealed_timestamp_seconds{F}", "")],
            ),
        ],
    ),
    (
        "Releases and ledger",
        [
            ("stat", "Releases", "none", [(f"{A}releases{F}", "{{verified}}")]),
            ("stat", "Newest release: round", "none", [(f"{A}release_round{F}", "")]),
            (
                "stat",
                "Newest release: age",
                "s",
                [(f"time() - {A}release_issued_timestamp_seconds{F}", "")],
            ),
            (
                "stat",
                "Newest release: left",
                "s",
                [(f"{A}release_expires_timestamp_seconds{F} - time()", "")],
            ),
            ("stat", "Newest release: size", "bytes", [(f"{A}release_bytes{F}", "")]),
            (
                "timeseries",
                "Points that older heads lose",
                "none",
                [(f"{A}release_head_points_lost{F}", "points")],
            ),
            (
                "timeseries",
                "Ledger",
                "none",
                [
                    (f"{A}ledger_records{F}", "records"),
                    (f"{A}ledger_witnessed_records{F}", "witnessed"),
                    (f"{A}ledger_head_cosignatures{F}", "cosignatures of the head"),
                ],
            ),
        ],
    ),
    (
        "The aggregator's machine",
        [
            (
                "timeseries",
                "Disk",
                "bytes",
                [
                    (f"{A}disk_free_bytes{F}", "free"),
                    (f"{A}disk_size_bytes{F}", "size"),
                    (f"{A}disk_round_bytes{F}", "a round"),
                ],
            ),
            ("timeseries", "Processes", "bool_on_off", [(f"{A}process_up{F}", "{{process}}")]),
            (
                "timeseries",
                "Restarts",
                "none",
                [(f"{A}process_restarts_total{F}", "{{process}}")],
            ),
            (
                "timeseries",
                "Memory",
                "bytes",
                [(f"{A}process_resident_memory_bytes{F}", "{{process}}")],
            ),
            (
                "timeseries",
                "Up for",
                "s",
                [(f"time() - {A}process_start_timestamp_seconds{F}", "{{process}}")],
            ),
            (
                "stat",
                "Certificate: left",
                "s",
                [(f"{A}certificate_expires_timestamp_seconds{F} - time()", "")],
            ),
            (
                "stat",
                "Clock ahead, and looked at",
                "s",
                [
                    (f"{A}clock_ahead_seconds{F}", "ahead"),
                    (f"time() - {A}observed_timestamp_seconds{F}", "looked at, ago"),
                ],
            ),
        ],
    ),
    (
        "Nodes, by their own metrics",
        [
            (
                "timeseries",
                "State",
                "none",
                [
                    (f"{N}state{OWN} == 1", f"{WHO} {{{{state}}}}"),
                    (f"{N}running{OWN}", f"{WHO} running"),
                    (f"{N}silent{OWN}", f"{WHO} silent"),
                    (f"{N}info{OWN}", f"{WHO} {{{{version}}}}"),
                ],
            ),
            (
                "timeseries",
                "Round and step",
                "none",
                [
                    (f"{N}round{OWN}", f"{WHO} round"),
                    (f"{N}rounds_planned{OWN}", f"{WHO} of"),
                    (f"{N}step{OWN}", f"{WHO} step"),
                    (f"{N}steps{OWN}", f"{WHO} of"),
                ],
            ),
            (
                "timeseries",
                "Samples a second",
                "none",
                [(f"{N}samples_per_second{OWN}", WHO)],
            ),
            (
                "timeseries",
                "Loss and effective rank",
                "none",
                [(f"{N}loss{OWN}", f"{WHO} loss"), (f"{N}effective_rank{OWN}", f"{WHO} rank")],
            ),
            (
                "timeseries",
                "Time",
                "s",
                [
                    (f"{N}training_left_seconds{OWN}", f"{WHO} training, left"),
                    (f"{N}round_interval_seconds{OWN}", f"{WHO} a round"),
                    (f"{N}next_round_timestamp_seconds{OWN} - time()", f"{WHO} next round"),
                    (f"{N}finished_timestamp_seconds{OWN} - time()", f"{WHO} last round"),
                ],
            ),
            (
                "timeseries",
                "Heard of, ago",
                "s",
                [
                    (f"time() - {N}last_status_timestamp_seconds{OWN}", f"{WHO} said"),
                    (f"time() - {N}observed_timestamp_seconds{OWN}", f"{WHO} looked at"),
                ],
            ),
            (
                "timeseries",
                "What left, by purpose",
                "bytes",
                [
                    (f"{N}egress_bytes_total{OWN}", f"{WHO} {{{{purpose}}}}"),
                    (f"{N}egress_wire_bytes_total{OWN}", f"{WHO} on the wire"),
                ],
            ),
            (
                "timeseries",
                "Departures",
                "none",
                [
                    (f"{N}departures_total{OWN}", f"{WHO} contributions"),
                    (f"{N}egress_requests_total{OWN}", f"{WHO} requests"),
                    (f"{N}egress_ledger_records{OWN}", f"{WHO} records"),
                    (f"{N}egress_ledger_broken{OWN}", f"{WHO} broken"),
                ],
            ),
            (
                "timeseries",
                "Upload rate, spool",
                "bytes",
                [
                    (f"{N}upload_bytes_per_second{OWN}", f"{WHO} a second"),
                    (f"{N}spool_bytes{OWN}", f"{WHO} spool"),
                ],
            ),
            (
                "timeseries",
                "What became of contributions",
                "none",
                [(f"{N}rounds{OWN}", f"{WHO} {{{{state}}}}")],
            ),
            (
                "timeseries",
                "Weight, distortion",
                "percentunit",
                [
                    (f"{N}last_weight_ratio{OWN}", f"{WHO} last weight"),
                    (f"{N}mean_weight_ratio{OWN}", f"{WHO} mean weight"),
                    (f"{N}last_distortion_ratio{OWN}", f"{WHO} distortion"),
                ],
            ),
            (
                "timeseries",
                "Federation premium",
                "none",
                [
                    (f"{N}premium_points{OWN}", f"{WHO} points"),
                    (f"{N}premium_error_points{OWN}", f"{WHO} ±"),
                    (f"{N}premium_consensus_percent{OWN}", f"{WHO} consensus"),
                    (f"{N}premium_solo_percent{OWN}", f"{WHO} solo"),
                ],
            ),
            (
                "timeseries",
                "The shadow, and ε",
                "none",
                [
                    (f"{N}premium_time_share_ratio{OWN}", f"{WHO} share of time"),
                    (f"{N}premium_solo_samples{OWN}", f"{WHO} samples"),
                    (f"{N}privacy_epsilon{OWN}", f"{WHO} ε"),
                ],
            ),
            (
                "timeseries",
                "CPU and GPU",
                "none",
                [
                    (f"{N}load1{OWN}", f"{WHO} load"),
                    (f"{N}cpu_cores{OWN}", f"{WHO} cores"),
                    (f"{N}gpu_busy_ratio{OWN}", f"{WHO} GPU {{{{gpu}}}}"),
                ],
            ),
            (
                "timeseries",
                "Memory",
                "bytes",
                [
                    (f"{N}memory_used_bytes{OWN}", f"{WHO} machine"),
                    (f"{N}memory_size_bytes{OWN}", f"{WHO} of"),
                    (f"{N}peak_resident_memory_bytes{OWN}", f"{WHO} the node's peak"),
                    (f"{N}gpu_memory_used_bytes{OWN}", f"{WHO} GPU {{{{gpu}}}}"),
                    (f"{N}gpu_memory_size_bytes{OWN}", f"{WHO} GPU {{{{gpu}}}}, of"),
                ],
            ),
            (
                "timeseries",
                "Disk",
                "bytes",
                [
                    (f"{N}disk_free_bytes{OWN}", f"{WHO} free"),
                    (f"{N}disk_size_bytes{OWN}", f"{WHO} of"),
                    (f"{N}home_bytes{OWN}", f"{WHO} home"),
                ],
            ),
        ],
    ),
]


def dashboard() -> dict[str, Any]:
    """The dashboard, as Grafana 9 and later import it."""
    panels: list[dict[str, Any]] = []
    top = 0
    for title, row in ROWS:
        panels.append(
            {
                "id": len(panels) + 1,
                "type": "row",
                "title": title,
                "collapsed": False,
                "panels": [],
                "gridPos": {"h": 1, "w": COLUMNS, "x": 0, "y": top},
            }
        )
        top, left, tallest = top + 1, 0, 0
        for kind, name, unit, queries in row:
            width, height = (4, 4) if kind == "stat" else (WIDTH, HEIGHT)
            if left + width > COLUMNS:
                top, left, tallest = top + tallest, 0, 0
            where = {"h": height, "w": width, "x": left, "y": top}
            panels.append(_panel(len(panels) + 1, kind, name, unit, queries, where))
            left, tallest = left + width, max(tallest, height)
        top += tallest
    return {
        "uid": UID,
        "title": "Gobelin",
        "tags": ["gobelin"],
        "schemaVersion": 37,
        "version": 1,
        "editable": True,
        "refresh": "10s",
        "time": {"from": "now-6h", "to": "now"},
        "timezone": "browser",
        "templating": {"list": _variables()},
        "annotations": {"list": []},
        "panels": panels,
    }


def _panel(
    number: int, kind: str, title: str, unit: str, queries: list[Query], where: dict[str, int]
) -> dict[str, Any]:
    targets = []
    for letter, (expr, legend) in zip("ABCDEFGH", queries, strict=False):
        target = {
            "refId": letter,
            "datasource": SOURCE,
            "expr": expr,
            "legendFormat": legend or title,
        }
        if kind == "table":
            target |= {"format": "table", "instant": True}
        targets.append(target)
    options: dict[str, Any] = {"legend": {"displayMode": "list", "placement": "bottom"}}
    if kind == "stat":
        named = any(legend for _, legend in queries)
        reduce = {"calcs": ["lastNotNull"], "fields": "", "values": False}
        options = {
            "reduceOptions": reduce,
            "textMode": "value_and_name" if named else "value",
            "colorMode": "none",
            "graphMode": "none",
        }
    return {
        "id": number,
        "type": kind,
        "title": title,
        "datasource": SOURCE,
        "gridPos": where,
        "fieldConfig": {"defaults": {"unit": unit}, "overrides": []},
        "options": options if kind != "table" else {"showHeader": True},
        "targets": targets,
    }


def _variables() -> list[dict[str, Any]]:
    asked = [
        ("federation", f"label_values({A}info, federation)", False),
        ("member", f"label_values({A}member_influence_ratio{F}, member)", True),
        ("node", f"label_values({A}node_online{M}, node)", True),
    ]
    source = {
        "name": "datasource",
        "type": "datasource",
        "query": "prometheus",
        "label": "Prometheus",
        "hide": 0,
    }
    return [source] + [
        {
            "name": name,
            "type": "query",
            "datasource": SOURCE,
            "query": query,
            "definition": query,
            "refresh": 2,
            "sort": 1,
            "multi": several,
            "includeAll": several,
            **(
                {"allValue": ".*", "current": {"text": "All", "value": "$__all"}} if several else {}
            ),
            "hide": 0,
        }
        for name, query, several in asked
    ]


def text() -> str:
    """The file's text."""
    return json.dumps(dashboard(), indent=1, sort_keys=True, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
