"""Panels of the federation, by the aggregator's metrics: a panel a figure."""

from __future__ import annotations

from deploy.grafana.queries import MN, A, F, M, Row

FEDERATION: list[Row] = [
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
]
