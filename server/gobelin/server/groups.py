"""Groups: the tensors that the same members train are merged and stepped apart from the others.

A tokenizer is averaged over the members that trained it, the trunk over all. So weights, caps,
clipping, rules and outer optimizers see a group as a federation of its own: who has no part in it
dilutes nothing. A group that nobody trained stays where it is, and so does its outer momentum.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from gobelin.server.geometry import Deltas
from gobelin.server.merge import Counted, Merged, Merges
from gobelin.server.outer import OuterOptimizer, OuterState, state_of, step_fragment, with_state
from gobelin.shared.fragments import Fragment


@dataclass(frozen=True)
class Moved:
    """What a round's contributions move the federation to."""

    values: Tensor  # (P,) of the whole model
    merged: Merged  # over all groups
    outer: OuterState
    merge: Mapping[str, Tensor]  # the rule's memory


def move_groups(
    merger: Merges,
    outer: OuterOptimizer,
    fragment: Fragment,
    modalities: Collection[str],
    deltas: Mapping[str, Deltas],
    counted: Sequence[Counted],
    base: Tensor,
    state: OuterState,
    memory: Mapping[str, Tensor],
) -> Moved:
    """Merge and step every group of a fragment from `base` (P,).

    `deltas` has, by group, those of the contributions that trained it, in the order of `counted`.
    """
    made: dict[Fragment, Merged] = {}
    values = base
    for group in fragment.groups(modalities):
        rows = [row for row in counted if group.trained_by(row.modality)]
        if not rows:
            continue
        merged = merger.merge(deltas[group.group], rows, state_of(group, memory))
        memory = with_state(group, memory, merged.state)
        values, state = step_fragment(outer, group, values, merged.delta, state)
        made[group] = merged
    return Moved(values, _together(fragment, made), state, memory)


def _together(fragment: Fragment, made: Mapping[Fragment, Merged]) -> Merged:
    """The merge of all groups as one; the first is that of all members, whose figures it has.

    Influence on the whole is the mean of those on the groups, weighted by what each is told in;
    so it keeps a cap that they keep. A member's minority loss is its largest in any group.
    """
    first, *others = made.values()
    if not others:
        return first
    unit = math.fsum(merged.unit for merged in made.values())
    delta = torch.zeros(fragment.whole.size)
    for group, merged in made.items():
        delta = group.put(delta, merged.delta)
    members = {
        name: _row_of_all([(m.unit, m.members[name]) for m in made.values() if name in m.members])
        for name in first.members
    }
    for row in members.values():
        row["influence"] = row["influence"] / unit if unit else 0.0
    apart = {
        group.group: {**merged.facts, "members": merged.members} for group, merged in made.items()
    }
    return replace(
        first,
        delta=fragment.take(delta),
        members=members,
        facts={**first.facts, "groups": apart},
        unit=unit,
    )


def _row_of_all(rows: Sequence[tuple[float, Mapping[str, Any]]]) -> dict[str, Any]:
    """A member's row from its rows in groups, each with its unit; influence is in units still."""
    first = rows[0][1]
    square = math.fsum(row["norm"] ** 2 for _, row in rows)
    kept = math.fsum(row["kept"] * row["norm"] ** 2 for _, row in rows)
    reasons = dict.fromkeys(code for _, row in rows for code in row["reduced"])
    return {
        "weight": first["weight"],
        "norm": math.sqrt(square),
        "influence": math.fsum(unit * row["influence"] for unit, row in rows),
        "kept": kept / square if square else 0.0,
        "minority_loss": max(row["minority_loss"] for _, row in rows),
        "reduced": list(reasons),
    }
