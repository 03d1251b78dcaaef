"""The rounds of a federation inside one process: no sockets, the same arithmetic, the same bits.

For studies of many small federations, and as the tests' reference for the real one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from fractions import Fraction
from typing import Literal

from torch import Tensor

from gobelin.client.trainer import LocalSteps, LocalTrainer
from gobelin.server.aggregation import InMemory
from gobelin.server.broadcast import Broadcast
from gobelin.server.broadcast import broadcast as told_by
from gobelin.server.merge import Merged, Merger
from gobelin.server.outer import OuterOptimizer, OuterState, Sgd
from gobelin.shared.codec import compress
from gobelin.shared.data import BatchStream, ImageSource
from gobelin.shared.model import build_jepa
from gobelin.shared.objective import Moments, Offset, Sketch
from gobelin.shared.recipe import Recipe
from gobelin.shared.seeds import derive_seed
from gobelin.shared.vector import ParameterVector

Tamper = Callable[
    [int, ParameterVector, Mapping[str, ParameterVector]], Mapping[str, ParameterVector]
]
CrossNode = Literal["no", "sketch", "moments"]  # what members say of their data's embeddings


def federate_in_process(
    recipe: Recipe,
    members: Mapping[str, ImageSource],
    rounds: int,
    local_steps: int,
    seed: int,
    outer: OuterOptimizer | None = None,
    on_round: Callable[[int, list[ParameterVector]], None] | None = None,
    codec: str = "fp32",
    *,
    broadcast: str = "fp32",
    cross_node: CrossNode = "no",
    merger: Merger | None = None,
    tamper: Tamper | None = None,
    on_merge: Callable[[int, Merged], None] | None = None,
    on_broadcast: Callable[[int, Broadcast], None] | None = None,
) -> ParameterVector:
    """The consensus after `rounds`; `on_round` sees each round's number and the deltas as sent.

    With a codec that loses something, every member keeps a residual (error feedback), as the
    aggregator does with a `broadcast` that loses something.
    With one member and the default outer optimizer this is that member training alone. With
    `cross_node` the members sketch every base first, and SIGReg tests the data of all of them.
    `tamper` turns a round's number, base and honest deltas, as sent, into those that are
    admitted, `on_merge` sees what they came to, `on_broadcast` how members are told.
    """
    outer, merger = outer or Sgd(), merger or Merger()
    base = ParameterVector.of(build_jepa(recipe, seed))
    state: OuterState = {}
    memory: Mapping[str, Tensor] = {}
    owed: Tensor | None = None  # by the broadcast
    residuals: dict[str, Tensor | None] = dict.fromkeys(members)
    seeds = {name: derive_seed(seed, "node", name) for name in members}
    trainers = {
        name: LocalTrainer(recipe, BatchStream(source, recipe.inner.batch_size, seeds[name]).batch)
        for name, source in members.items()
    }
    for number in range(1, rounds + 1):
        deltas: Mapping[str, ParameterVector] = {}
        first, total = (number - 1) * local_steps, rounds * local_steps
        plans = {name: LocalSteps(first, local_steps, total, seed, seeds[name]) for name in members}
        if cross_node != "no":
            plans = with_offsets(trainers, base, plans, cross_node)
        for name, trainer in sorted(trainers.items()):
            trained, _ = trainer.train(base, plans[name])
            made = compress(codec, trained - base, residuals[name])
            residuals[name] = made.residual
            deltas = {**deltas, name: made.payload.decode()}
        if tamper is not None:
            deltas = tamper(number, base, deltas)
        names = sorted(deltas)
        merged = merger.merge(InMemory([deltas[name].values for name in names]), names, memory)
        memory = merged.state
        values, state = outer.step(base.values, merged.delta, state)
        told = told_by(broadcast, base, ParameterVector(base.schema, values), owed)
        base, owed = told.consensus, told.owed
        if on_round is not None:
            on_round(number, list(deltas.values()))
        if on_merge is not None:
            on_merge(number, merged)
        if on_broadcast is not None:
            on_broadcast(number, told)
    return base


def with_offsets(
    trainers: Mapping[str, LocalTrainer],
    base: ParameterVector,
    plans: Mapping[str, LocalSteps],
    form: CrossNode,
) -> dict[str, LocalSteps]:
    """The local steps, each with what the global sketch of `base` adds to the member's own."""
    offsets: dict[str, Offset] = {}
    if form == "sketch":
        own = {name: trainer.sketch(base, plans[name]) for name, trainer in trainers.items()}
        together = Sketch.mean((sketch, Fraction(1)) for sketch in own.values())
        offsets |= {name: together.offset_from(sketch) for name, sketch in own.items()}
    else:
        seen = {name: trainer.moments(base, plans[name]) for name, trainer in trainers.items()}
        pooled = Moments.pool((moments, Fraction(1)) for moments in seen.values())
        offsets |= {name: pooled.offset_from(moments) for name, moments in seen.items()}
    return {name: replace(plan, offset=offsets[name]) for name, plan in plans.items()}
