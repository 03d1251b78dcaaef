"""Fragments: the parts of the parameter vector that rounds exchange in turn.

Streaming DiLoCo (arXiv:2501.18512): of K fragments a round exchanges one, so it sends a K-th of
the bytes. Meanwhile a node goes on from its own values of the others; freezing them instead costs
a fifth of the loss. Layers are dealt out in strides, as the paper finds best.

Where a recipe has several modalities, a member exchanges its part of a fragment: what all members
train, and what those of its modality do. What the same members train is a group of the fragment;
groups are averaged one by one, each over the members that trained it.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import torch
from torch import Tensor

from gobelin.shared.errors import ConfigError
from gobelin.shared.vector import ParameterSchema, ParameterVector

SHARED = "(shared)"  # name of the group that all members train; no modality is called so
BLOCK = re.compile(r"(?:^|\.)blocks\.(\d+)\.")  # the trunk's layers, by number


@dataclass(frozen=True)
class Fragment:
    """Some of a model's tensors: a parameter vector of its own, with a schema of its own."""

    index: int
    whole: ParameterSchema
    names: frozenset[str]
    group: str = ""  # of those who train it: SHARED, or a modality; empty where it is no group

    def part(self, modality: str) -> Fragment:
        """What members of a modality exchange of it; all of it where `modality` is empty."""
        if not modality:
            return self
        own = (t.name for t in self.schema.tensors if t.modality in ("", modality))
        return replace(self, names=frozenset(own))

    def groups(self, modalities: Collection[str]) -> tuple[Fragment, ...]:
        """Its tensors by who trains them: all members, or those of one of so many modalities.

        The fragment itself where there are fewer than two.
        """
        if len(modalities) < 2:
            return (self,)
        names: dict[str, set[str]] = {}
        for spec in self.schema.tensors:
            names.setdefault(spec.modality or SHARED, set()).add(spec.name)
        return tuple(
            replace(self, names=frozenset(names[group]), group=group)
            for group in (SHARED, *sorted(modalities))
            if group in names
        )

    def trained_by(self, modality: str) -> bool:
        """Whether members of a modality train this group."""
        return self.group in ("", SHARED, modality)

    def within(self, part: Fragment) -> Fragment:
        """This group as a part of another part's vector, where it lies in that."""
        return replace(self, whole=part.schema)

    @cached_property
    def schema(self) -> ParameterSchema:
        """The schema of these tensors alone; that of the model where they are all of it."""
        if len(self.names) == len(self.whole.tensors):
            return self.whole
        return ParameterSchema(tuple(t for t in self.whole.tensors if t.name in self.names))

    @cached_property
    def spans(self) -> tuple[tuple[int, int], ...]:
        """Start and end of its stretches of the model's flat vector, in order."""
        spans: list[tuple[int, int]] = []
        for spec in self.schema.tensors:
            start, end = self.whole.offsets[spec.name]
            if spans and spans[-1][1] == start:
                spans[-1] = (spans[-1][0], end)
            else:
                spans.append((start, end))
        return tuple(spans)

    def of(self, vector: ParameterVector) -> ParameterVector:
        """Its part of a model's vector."""
        return ParameterVector(self.schema, self.take(vector.values))

    def take(self, values: Tensor) -> Tensor:
        """Its values (P_f,) of a model's (P,), a view where they lie in one piece."""
        parts = [values[start:end] for start, end in self.spans]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def put(self, values: Tensor, part: Tensor) -> Tensor:
        """A model's values (P,) with `part` (P_f,) in its place."""
        if self.schema is self.whole:
            return part
        values, at = values.clone(), 0
        for start, end in self.spans:
            values[start:end] = part[at : at + end - start]
            at += end - start
        return values

    def owe(self, before: Tensor | None, residual: Tensor | None) -> Tensor | None:
        """A model's residual (P,) once this fragment's has become `residual`; None for nothing.

        What other fragments owe they owe until it is their turn.
        """
        if self.schema is self.whole or (before is None and residual is None):
            return residual
        whole = torch.zeros(self.whole.size) if before is None else before
        return self.put(whole, torch.zeros(self.schema.size) if residual is None else residual)

    def widen(self, part: ParameterVector) -> ParameterVector:
        """The delta of the whole model that moves this fragment by `part` and no other."""
        if self.schema is self.whole:
            return part
        return ParameterVector(self.whole, self.put(torch.zeros(self.whole.size), part.values))


@lru_cache(maxsize=4)
def fragments_of(schema: ParameterSchema, count: int) -> tuple[Fragment, ...]:
    """A model's tensors dealt out to `count` fragments, each to exactly one.

    Block i of the trunk is in fragment i mod K; what lies outside of blocks (tokenizer,
    projector, norms), module by module from the largest, in the one that is smallest so far.
    Raises ConfigError on no fragments, or more than there are parts to deal out; where there are
    several modalities, also if a fragment would have nothing that all members train.
    """
    too_many = ConfigError(f"{count} fragments of this model are too many", "lower outer.fragments")
    if not 1 <= count <= len(schema.tensors):
        raise too_many
    sizes, names = [0] * count, [set[str]() for _ in range(count)]
    others: dict[str, list[str]] = {}
    numel = {spec.name: spec.numel for spec in schema.tensors}
    for name in numel:
        if block := BLOCK.search(name):
            index = int(block[1]) % count
            names[index].add(name)
            sizes[index] += numel[name]
        else:
            others.setdefault(name.rpartition(".")[0], []).append(name)
    size_of = {module: sum(numel[name] for name in own) for module, own in others.items()}
    for module in sorted(others, key=lambda m: (-size_of[m], m)):
        index = sizes.index(min(sizes))
        names[index].update(others[module])
        sizes[index] += size_of[module]
    if not all(names):
        raise too_many
    of = {spec.name: spec.modality for spec in schema.tensors}
    several = len(set(of.values()) - {""}) > 1
    if several and any(all(of[name] for name in own) for own in names):
        raise too_many
    return tuple(Fragment(i, schema, frozenset(own)) for i, own in enumerate(names))


def fragment_of_round(schema: ParameterSchema, count: int, number: int) -> Fragment:
    """The fragment that round `number`, counted from 1, exchanges."""
    return fragments_of(schema, count)[(number - 1) % count]


def start_of_round(
    number: int, base: ParameterVector, count: int, before: int, local: Tensor, alpha: float = 1.0
) -> ParameterVector:
    """Where a node starts round `number` that had the values `local` (P,) after round `before`.

    From its own values; in the fragments of the rounds since, α · shared + (1 − α) · own. A node
    that was away for a whole turn, or takes part in rounds of one fragment, starts from the base.
    """
    if number - before >= count:
        return base
    for since in range(before, number):
        fragment = fragment_of_round(base.schema, count, since)
        part = fragment.take(base.values)
        if alpha != 1:
            part = alpha * part + (1 - alpha) * fragment.take(local)
        local = fragment.put(local, part)
    return ParameterVector(base.schema, local)
