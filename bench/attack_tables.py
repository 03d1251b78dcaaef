"""The table of hostile members: what every rule loses under every attack."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.markdown import figure, table

RULES = {
    "mean": "mean",
    "clipped_mean": "clipped mean",
    "trimmed_mean": "trimmed mean",
    "median": "median",
    "geometric_median": "geometric median",
    "centered_clipping": "centered clipping",
    "krum": "Krum (a baseline)",
}
ATTACKS = {
    "none": "none",
    "nan": "NaN",
    "times_minus_10": "× −10",
    "sign_flip": "sign flip",
    "alie": "ALIE",
    "ipm_0.1": "IPM, ε = 0.1",
    "ipm_10": "IPM, ε = 10",
    "collapse": "collapse",
    "collapse_boosted": "collapse, boosted",
}


def byzantine_table(values: Mapping[str, Any]) -> str:
    """Points below the unattacked plain mean, and how many hostile contributions were refused."""
    rules = {rule: title for rule, title in RULES.items() if f"{rule}.worst_loss" in values}
    attacks = [attack for attack in ATTACKS if f"mean.{attack}.tokens" in values]
    offered = len(values["seeds"]) * values["rounds"] * values["hostile"]
    rows = [
        [
            ATTACKS[attack],
            *(figure(values[f"{rule}.{attack}.below_clean_mean"], 2, True) for rule in rules),
            _shares([values[f"{rule}.{attack}.refused"] for rule in rules], offered),
            str(max(values[f"{rule}.{attack}.refused_honest"] for rule in rules)),
        ]
        for attack in attacks
    ]
    rows.append(["worst", *(f"{values[f'{rule}.worst_loss']:+.2f}" for rule in rules), "", ""])
    gate = "on" if values.get("no_gate") is False else "off"
    heading = (
        f"## {values['hostile']} of {values['members']} members hostile\n\n"
        f"`make bench-byzantine`: {values['rounds']} rounds of {values['local_steps']} steps, "
        f"recipe {values['recipe']}, Dirichlet({values['alpha']:g}), seeds {values['seeds']}, "
        f"{values['machine']}; the collapse gate is {gate}, the quality floor "
        f"{'on' if values.get('floor') else 'off'}. Points of the linear probe on tokens below "
        f"the plain mean without attack ({figure(values['mean.none.tokens'])}); of hostile "
        "contributions the share refused before they reached a rule, and of honest ones the most "
        f"refused under any rule. Best rule: {values['best_rule']}, worst loss "
        f"{values['worst_loss']:.2f}; plain mean {values['worst_loss_plain_mean']:.2f}. "
        f"Goal: {values['goal']}.\n"
    )
    heads = ["attack", *rules.values(), "refused", "honest refused"]
    return "\n".join([heading, table(heads, rows)])


def _shares(refused: list[int], offered: int) -> str:
    low, high = (100 * count // offered for count in (min(refused), max(refused)))
    return f"{low} %" if low == high else f"{low}–{high} %"
