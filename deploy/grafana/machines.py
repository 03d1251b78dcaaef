"""Panels of the machines, the aggregator's and the nodes' by their own metrics."""

from __future__ import annotations

from deploy.grafana.queries import OWN, WHO, A, F, N, Row

MACHINES: list[Row] = [
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
