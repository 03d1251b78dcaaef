"""`gobelin node status`: a view of the overview, for a terminal or as JSON."""

from __future__ import annotations

import datetime
import json

from gobelin.client.home import NodeHome
from gobelin.client.observer import Observer
from gobelin.client.overview import Overview, PremiumView, SpoolView
from gobelin.client.progress import describe
from gobelin.shared.codec_name import describe_codec

MEASURES = {
    "probe": "accuracy of a linear probe",
    "identification": "held-out samples found again by a view",
}


def print_status(home: NodeHome, as_json: bool) -> None:
    """Print where a node stands, from its files alone."""
    overview = Observer(home).look()
    if as_json:
        print(json.dumps(overview.facts(), sort_keys=True))
        return
    print("\n".join(lines_of(overview)))


def lines_of(of: Overview) -> list[str]:
    """For a terminal, what needs a person first."""
    state = "running" if of.running else "not running"
    lines = [f"{of.node} of {of.member}: {state}", f"  {describe(of.status)}", *_warnings(of)]
    lines += [f"  {of.paused}"] if of.paused else []
    lines += [f"  {coming}"] if (coming := next_line(of)) else []
    lines += [f"  {of.leaving}", f"  {left_line(of)}"]
    lines += [_spooled(entry) for entry in of.spool]
    lines += [
        f"  moments go with the contribution of round {entry.round}: {entry.moments_bytes:,} bytes"
        for entry in of.spool
        if entry.moments_bytes
    ]
    lines += [f"  {premium_line(of.premium)}"] if of.premium else []
    return [*lines, f"  {machine_line(of)}"]


def left_line(of: Overview) -> str:
    """What has left, in a sentence."""
    weight = "" if of.mean_weight is None else f", at a mean weight of {of.mean_weight:.3g}"
    return (
        f"{of.left.departures} contributions left in {of.left.wire_bytes:,} bytes; "
        f"{of.counted} counted{weight}"
    )


def premium_line(of: PremiumView) -> str:
    """What federating gives, in a sentence that hides no deficit."""
    seen = f"the solo model has seen {of.seen_samples:,} of {of.contributed:,} samples"
    ended = f"; the shadow has ended: {of.ended}" if of.ended else ""
    if of.points is None:
        return f"no premium yet; {seen}{ended}"
    return (
        f"premium {of.points:+.1f} ± {of.error:.1f} points ({MEASURES[of.measure]}, at as many "
        f"samples: consensus {of.consensus:.1f} %, solo {of.solo:.1f} %); {seen}{ended}"
    )


def machine_line(of: Overview) -> str:
    """The machine, in a sentence."""
    has = of.machine
    parts = [f"{has.cores} cores" + ("" if has.load is None else f", load {has.load:.1f}")]
    if has.memory is not None and has.memory_total is not None:
        parts.append(f"memory {has.memory / 1e9:.1f} of {has.memory_total / 1e9:.1f} GB")
    parts += [
        f"{gpu.name} {gpu.busy:.0%} busy, {gpu.memory / 1e9:.1f} of {gpu.memory_total / 1e9:.1f} GB"
        for gpu in has.gpus
    ]
    parts.append(f"disk {has.disk_free / 1e9:.1f} GB free, home {has.home_bytes / 1e6:.1f} MB")
    if of.upload_bytes_per_second is not None:
        parts.append(f"upload {of.upload_bytes_per_second / 1e6:.2f} MB/s")
    return "; ".join(parts)


def next_line(of: Overview) -> str:
    """What is to be expected when; nothing where nobody can say."""
    if of.next.round_s is None:
        return ""
    parts = [f"a round takes {of.next.round_s:.0f} s"]
    if of.next.next_at is not None:
        parts.append(f"the next may come {_when(of.next.next_at)}")
    if of.next.finished_at is not None:
        parts.append(f"the last of {of.rounds_planned} may be over {_when(of.next.finished_at)}")
    return ", ".join(parts)


def _warnings(of: Overview) -> list[str]:
    found = ["  silent: it has told of no step for a minute"] if of.silent else []
    found += [f"  warning: {of.left.broken}"] if of.left.broken else []
    bad = [each for each in of.rounds if each.state == "refused"]
    found += [f"  round {each.round} did not count ({each.reason}) → {each.remedy}" for each in bad]
    if of.refusals and (not of.rounds or of.refusals[-1].at > (of.rounds[-1].at or 0.0)):
        last = of.refusals[-1]
        found.append(f"  did not answer the last plan ({last.reason}) → {last.remedy}")
    return found


def _spooled(of: SpoolView) -> str:
    return f"  {of.fate} ({describe_codec(of.codec, of.sent_bytes, of.distortion)})"


def _when(at: float) -> str:
    return datetime.datetime.fromtimestamp(at, datetime.UTC).strftime("at %Y-%m-%d %H:%M UTC")
