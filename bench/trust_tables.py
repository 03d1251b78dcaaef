"""Tables of trust: what hostile contributions meet, and what enrolment lives through."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.markdown import table


def hostile_table(values: Mapping[str, Any]) -> str:
    """The corpus of hostile replies."""
    rows = [
        ["hostile replies", str(values["cases"])],
        ["of them accepted", str(values["accepted"])],
        ["refused by another code than theirs", str(values["wrong"])],
        ["that ended the aggregator's intake", str(values["crashed"])],
        ["honest replies between them, counted", str(values["honest"])],
        ["growth of memory, MB", f"{values['growth_mb']:.0f}"],
    ]
    heading = (
        "## Hostile contributions\n\n`make bench-hostile_corpus`: shapes, types, NaN and infinity, "
        "headers, sizes, replays, forged and stale envelopes, pickles, paths and false claims, "
        f"each through the whole intake, {values['machine']}. Goal: {values['goal']}.\n"
    )
    return "\n".join([heading, table(["figure", "value"], rows)])


def admission_table(values: Mapping[str, Any]) -> str:
    """What admission costs beside hashing."""
    rows = [
        [codec, *(f"{values[f'{codec}.{key}']:.0f}" for key in ("ms_per_100m", "hashing_ms"))]
        for codec in ("fp32", "int4")
        if f"{codec}.ms_per_100m" in values
    ]
    heading = (
        f"## Admission of {values['parameters'] / 1e6:.0f}M parameters\n\n"
        f"`make bench-admission`: one core, best of {values['repeats']}, {values['machine']}. "
        f"Decoding is in it, which at int4 is most of it. Goal: {values['goal']}.\n"
    )
    heads = ["codec", "beyond hashing, ms for 100M", "hashing, ms"]
    return "\n".join([heading, table(heads, rows)])


def enrolment_table(values: Mapping[str, Any]) -> str:
    """Kills of either side of an enrolment."""
    rows = [
        ["distinct points reached", str(values["points"])],
        ["ended not enrolled, or on the roster twice", str(values["failures"])],
        ["enrolments", str(values["enrolments"])],
        *([f"points in: {kind}", str(n)] for kind, n in sorted(values["of_process"].items())),
        *([f"points at: {op}", str(n)] for op, n in sorted(values["of_operation"].items())),
    ]
    heading = (
        "## Enrolment, killed at every step\n\n`make bench-enrolment_kills`: `gobelin node join` "
        "and the service that answers it, each ended by kill −9 and begun again, "
        f"{values['machine']}. Goal: {values['goal']}.\n"
    )
    return "\n".join([heading, table(["figure", "value"], rows)])


def fresh_table(values: Mapping[str, Any]) -> str:
    """How long a newcomer needs."""
    rows = [
        ["`pip install`, into a new virtual environment", f"{values['install_s']:.0f}"],
        ["`gobelin node join INVITE`", f"{values['join_s']:.0f}"],
        [
            "`gobelin node run`, until a contribution counts",
            f"{values['first_contribution_s']:.0f}",
        ],
        ["all", f"{values['seconds']:.0f}"],
    ]
    heading = (
        "## From a fresh machine to the first accepted contribution\n\n"
        "`make bench-fresh_machine`: recipe tiny, 50 local steps, a federation on loopback that is "
        f"up before, {values['machine']}. Goal: {values['goal']}.\n"
    )
    return "\n".join([heading, table(["command", "seconds"], rows)])
