"""Tables of what a long federation lives through, and of what grows meanwhile."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.markdown import table

PLACES = {"aggregator": "aggregator's home", "node": "node's home"}


def soak_table(values: Mapping[str, Any]) -> str:
    """A federation under random kills, and the growth of one that nobody disturbs."""
    kills = values["kills"]
    rows = [
        ["rounds sealed, of " + str(values["planned"]), f"{values['rounds']:,}"],
        ["rounds of the undisturbed federation", f"{values['undisturbed_rounds']:,}"],
        ["violations", f"{values['violations']}"],
        ["contributions lost", f"{values['lost']}"],
        ["contributions counted twice", f"{values['double']}"],
        ["kills", f"{sum(kills.values())}"],
        *([f"kills of: {kind}", f"{n}"] for kind, n in sorted(kills.items())),
        *(
            [f"{name}: seconds from seal to seal, {what}", f"{pace[what]:.1f}"]
            for name in ("undisturbed", "killed")
            for pace in (values[f"{name}_seconds_a_round"],)
            for what in ("median", "max")
        ),
        ["greatest RSS slope after warm-up, MB/h", slope_of(values["rss_slope_mb_h"])],
    ]
    heading = (
        "## A long federation under random kills\n\n"
        f"`make bench-soak`: three nodes, recipe toy, {values['planned']} rounds, a kill −9 of a "
        f"process of any kind once in {values['every']:g} rounds, seed {values['seed']}, "
        f"{values['machine']}. A violation is a round that differs by one bit from the undisturbed "
        "federation's or from the same rounds in one process, a contribution lost or counted "
        f"twice, {values['stuck']:.0f} seconds without a sealed round, a traceback, open files "
        "that grow, a process or file left behind, or two processes where one should be. "
        f"Goal: {values['goal']}.\n"
    )
    return "\n".join([heading, table(["figure", "value"], rows), *_growth(values), *_disk(values)])


def soak_alone_table(values: Mapping[str, Any]) -> str:
    """The growth of a longer federation that nobody disturbs."""
    pace = values["undisturbed_seconds_a_round"]
    heading = (
        "## A longer federation that nobody disturbs\n\n"
        f"`python -m bench.soak --alone --rounds {values['planned']} --name soak_alone`: as above, "
        f"{values['machine']}. {values['rounds']:,} rounds, {values['violations']} violations, "
        f"{pace['median']:.1f} seconds from seal to seal in the median, {pace['max']:.1f} at most; "
        f"greatest RSS slope {slope_of(values['rss_slope_mb_h'])} MB/h (goal at most 1).\n"
    )
    return "\n".join([heading, *_growth(values), *_disk(values)])


def _growth(values: Mapping[str, Any]) -> list[str]:
    rows = [
        [
            grown["process"],
            f"{grown['rounds']}",
            f"{grown['hours']:.2f}",
            f"{grown['rss_mb'][0]:.1f}",
            f"{grown['rss_mb'][1]:.1f}",
            slope_of(grown["rss_slope_mb_h"]),
            f"{grown['rss_bytes_a_round']:+,.0f}",
            "{} → {}".format(*grown["fds"]),
            "{} → {}".format(*grown["threads"]),
        ]
        for grown in values["growth"]
    ]
    heads = ["process", "rounds", "hours", "MB at first", "at last", "MB/h", "bytes a round"]
    return [
        "Processes of the undisturbed federation after warm-up; slopes are medians over all pairs "
        "of looks (Theil–Sen):\n",
        table([*heads, "files", "threads"], rows),
    ]


def _disk(values: Mapping[str, Any]) -> list[str]:
    rows = [
        [PLACES[home], name, f"{size:+,.0f}", f"{files:+.2f}"]
        for home in PLACES
        for name, (size, files) in values["disk"][home].items()
    ]
    return [
        "What a round adds to the disk after warm-up, in bytes of the file system's blocks; what "
        "is not listed stays as it is:\n",
        table(["home", "entry", "bytes a round", "files a round"], rows),
    ]


def slope_of(value: float | None) -> str:
    """MB/h with its sign, or a dash where no process lived long enough."""
    return "–" if value is None else f"{value:+.2f}"
