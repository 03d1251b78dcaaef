"""Tables of running it: bad networks, a stranger's first federation, what installing takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.install_size import table as sizes_table
from bench.markdown import figure, table

HEADS = ["figure", "value", "goal"]


def network_table(values: Mapping[str, Any]) -> str:
    """One round over a link that is slow and cut."""
    payload = values["payload_bytes"]
    heading = (
        f"## An update of {payload / 1e6:.0f} MB at {values['mbit']:g} Mbit/s, cut\n\n"
        "`make bench-hard_network`: an aggregator and a node on loopback, the fault-injecting "
        f"proxy between them, {values['mbit']:g} Mbit/s each way; every connection is reset after "
        f"at most {values['cut_mb']:g} MB. {values['size']}M parameters by {values['codec']}, "
        f"seed {values['seed']}, {values['machine']}. Goal: {values['goal']}.\n"
    )
    rows = [
        ["the round was sealed", "yes" if values["completed"] else "no", "yes"],
        ["MB of the update", f"{payload / 1e6:.1f}", ""],
        ["Mbit/s each way", f"{values['mbit']:g}", ""],
        ["seconds, base down and update up", f"{values['seconds']:,.0f}", ""],
        ["seconds of the update alone, uncut", f"{payload * 8e-6 / values['mbit']:,.0f}", ""],
        ["connections that were reset", f"{values['resets']}", ""],
        ["sent beyond the update's bytes, percent", f"{100 * values['sent_again']:.1f}", ""],
        ["the same a reset, MB", f"{values['mb_again_a_reset']:.2f}", ""],
        ["begun anew from byte 0", f"{values['from_zero']}", "0"],
    ]
    return "\n".join([heading, table(HEADS, rows)])


def tutorial_table(values: Mapping[str, Any]) -> str:
    """The first tutorial, typed as it stands on a machine that has nothing yet."""
    heading = (
        "## A stranger's first federation\n\n"
        "`make bench-tutorial`: the commands of docs/tutorials/first-federation.md as they stand, "
        f"from pip install to a verified model, {values['machine']}. Goal: {values['goal']}.\n"
    )
    rows = [
        ["commands typed", f"{values['commands']}", ""],
        ["undocumented steps", f"{values['undocumented_steps']}", "0"],
        ["seconds in all", f"{values['seconds']:.0f}", "≤ 600"],
        ["seconds until three members train", f"{values['running_s']:.0f}", ""],
        ["processor seconds", f"{values['processor_s']:.0f}", ""],
        *([f"seconds of: {part}", f"{s:.0f}", ""] for part, s in values["sections_s"].items()),
    ]
    return "\n".join([heading, table(HEADS, rows)])


def install_table(values: Mapping[str, Any]) -> str:
    """What the package and each extra take on a disk."""
    return (
        "## What installing takes\n\n"
        "`make bench-install_size`: megabytes of 10⁶ bytes of what is installed, an extra's beyond "
        f"`gobelin` itself, {values['machine']}.\n\n{sizes_table(values['extras'])}"
    )


def shadow_table(values: Mapping[str, Any]) -> str:
    """What nodes tell of their premium beside what full solo runs tell, and what it costs."""
    heading = (
        "## The premium as nodes tell it\n\n"
        f"`make bench-shadow`: recipe {values['recipe']}, three members, {values['rounds']} rounds "
        f"of {values['local_steps']} steps, seeds {values['seeds']}, {values['machine']}. Points, "
        "mean ± standard deviation over members and seeds; a full solo run is trained from "
        f"outside on the same samples. Goal: {values['goal']}.\n"
    )
    shown = {
        "points": ("premium, as nodes tell it", 2),
        "outside": ("premium over full solo runs, the same held-out samples", 2),
        "off_by": ("the first minus the second", 2),
        "public": ("premium over full solo runs, public test images", 2),
        "today": ("newest consensus over newest solo model", 2),
    }
    rows = [
        [said, figure(values[key], digits, True)]
        for key, (said, digits) in shown.items()
        if key in values
    ]
    rows.append(
        ["members whose shadow had time for a look, percent", f"{100 * values['told']:.0f}"]
    )
    if "within_error" in values:
        within = f"{100 * values['within_error']:.0f}"
        rows.append(["of them within their own interval, percent", within])
    rows += [
        ["share of the samples at which it is told", figure(values["seen"], 2)],
        ["share of training time that the shadow took", figure(values["share"], 2)],
    ]
    costs = {
        "round_s_off": "seconds of a toy round on loopback, without a shadow",
        "round_s_on": "the same with one",
        "waited_s": "longest that a plan waited for a shadow, seconds",
    }
    rows += [[said, figure(values[key], 2)] for key, said in costs.items() if key in values]
    return "\n".join([heading, table(["figure", "value"], rows)])
