"""What to do about a contribution that did not count, or a plan this node did not answer."""

from __future__ import annotations

from collections.abc import Mapping

from gobelin.shared.errors import OTHER_VERSION

ASK = "ask the aggregator's operator, who sees what was found by `gobelin aggregator status`"
FASTER = "set compute.seconds_per_round in node.toml, or egress.seconds_per_round, or lower them"
COMES_AGAIN = "nothing: the next round asks again"

REMEDIES: Mapping[str, str] = {  # of reason codes (docs/reasons.md), by their first part, too
    "late": FASTER,
    "stale": FASTER,
    "collapse": "look at the data by `gobelin evaluate health`: all samples are answered alike",
    "quality_floor": "look at the data: with them the consensus does worse on the public probe",
    "magnitude": "look at the data for outliers; training moved a parameter too far",
    "duplicate": COMES_AGAIN,
    "dropped_out": "see that this node stays online until a sealed round is over",
    "no_place": "ask the operator to take this member's other node off the roster, or this one",
    "garbled": COMES_AGAIN,
    "not_on_roster": "join again, or ask the aggregator's operator to admit this node",
    "envelope.expired": "set this machine's clock, or upload faster",
    "envelope": "see that node.toml, its keys and ca.pem are those of this federation",
    "federation": "use another --home for another federation",
    "codec_finer": OTHER_VERSION,
    "codec": OTHER_VERSION,
    "claims": OTHER_VERSION,
    "vector": "see that device and precision are sound: `gobelin doctor`",
    "modality": "name data.modality in node.toml as the recipe does",
    "contribution.base_missing": COMES_AGAIN,
    "superseded": COMES_AGAIN,
    "not_spooled": COMES_AGAIN,
    "site_policy": "`gobelin node policy explain` says which rule keeps it here",
    "budget": "raise max_mb_per_round or seconds_per_round in [egress] of node.toml",
    "privacy": "see [privacy] in node.toml, and max_epsilon in policy.toml",
    "data": "mend what data.path points at; the log names it",
    "shadow": "see [shadow] in node.toml; the log names what is wrong",
    "diverged": "the recipe's learning rate is too high for these data: tell the operator",
    "config": "mend node.toml; the log names the key",
    "machine": "free some space, or memory",
}


def remedy_of(code: str) -> str:
    """What an operator does about a code, of the aggregator's or of this node's own."""
    code = code.removeprefix("gobelin:")
    while code:
        if code in REMEDIES:
            return REMEDIES[code]
        code = code.rpartition(".")[0]
    return ASK
