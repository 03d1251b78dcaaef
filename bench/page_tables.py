"""Tables of the pages: how soon they are there, how soon they tell, and whom they bar."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.markdown import figure, table

HEADS = ["figure", "value", "goal"]


def dashboard_table(values: Mapping[str, Any]) -> str:
    """The aggregator's page of a large federation."""
    heading = (
        f"## The page with {values['rounds']:,} rounds of {values['members']} members\n\n"
        "`make bench-dashboard`: a home in the real format with made-up figures, Chromium "
        f"without a window, {values['times']} times, {values['machine']}; "
        "mean ± standard deviation. Goal: " + values["goal"] + ".\n"
    )
    rows = [
        ["first contentful paint, s", figure(values["first_paint_s"], 2), "≤ 1"],
        ["the slowest of them, s", f"{values['first_paint_s']['max']:.2f}", ""],
        ["longest task of the tab, s", figure(values["longest_task_s"], 2), "no visible stall"],
        ["from a change in the home to the page, s", figure(values["update_s"], 1), ""],
        ["memory of the page's process, MB", f"{values['server_mb']:.0f}", "≤ 150"],
        ["memory of the tab (unique set size), MB", figure(values["tab_mb"], 0), "≤ 150"],
        ["of it JavaScript's heap, MB", figure(values["heap_mb"], 1), ""],
        ["from starting the command to the first page, s", f"{values['cold_s']:.1f}", ""],
    ]
    if "answered_s" in values:
        said = "until it answers that it is reading the home, s"
        rows.append([said, f"{values['answered_s']:.1f}", ""])
    return "\n".join([heading, table(HEADS, rows)])


def stuck_table(values: Mapping[str, Any]) -> str:
    """How soon silence is told."""
    heading = (
        "## A node that falls silent\n\n"
        "`make bench-stuck_visible`: an aggregator and three nodes on loopback, each a process, "
        f"the page open in Chromium; {values['times']} times each, {values['machine']}. Seconds, "
        f"mean ± standard deviation. Goal: {values['goal']}; "
        f"the slowest took {values['seconds']:.0f} s.\n"
    )
    rows = [
        ["kill −9, until the page says so", figure(values["killed"], 1), "≤ 60"],
        ["SIGSTOP, until the page says so", figure(values["stopped"], 1), "≤ 60"],
        ["either, until it is among the alerts (JSON)", figure(values["alerts"], 1), "≤ 60"],
        ["it is back, until the page says so", figure(values["back"], 1), ""],
    ]
    return "\n".join([heading, table(HEADS, rows)])


def axe_table(values: Mapping[str, Any]) -> str:
    """What bars people."""
    return (
        "## Accessibility of the pages\n\n"
        f"`make bench-axe`: axe-core {values['axe_core']} on {values['pages']} pages, light and "
        f"dark, wide and 390 px: {values['looks']} looks, {values['rules_passed']} rules passed. "
        f"Serious or critical violations: {values['serious']} (goal: {values['goal']}); "
        f"of any kind {sum(values['violations'].values())}.\n"
    )
