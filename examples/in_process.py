"""The rounds of a federation inside one process: no sockets, the same arithmetic, the same bits.

For studies of many small federations, and as the tests' reference for the real one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from fractions import Fraction

from gobelin.client.trainer import LocalSteps, LocalTrainer
from gobelin.server.aggregation import WeightedMean
from gobelin.server.outer import OuterOptimizer, OuterState, Sgd
from gobelin.shared.data import BatchStream, ImageSource
from gobelin.shared.model import build_jepa
from gobelin.shared.objective import Sketch
from gobelin.shared.recipe import Recipe
from gobelin.shared.seeds import derive_seed
from gobelin.shared.vector import ParameterVector


def federate_in_process(
    recipe: Recipe,
    members: Mapping[str, ImageSource],
    rounds: int,
    local_steps: int,
    seed: int,
    outer: OuterOptimizer | None = None,
    on_round: Callable[[int, list[ParameterVector]], None] | None = None,
    cross_node: bool = False,
) -> ParameterVector:
    """The consensus after `rounds`; `on_round` sees each round's number and the deltas.

    With one member and the default outer optimizer this is that member training alone. With
    `cross_node` the members sketch every base first, and SIGReg tests the data of all of them.
    """
    outer = outer or Sgd()
    base = ParameterVector.of(build_jepa(recipe, seed))
    state: OuterState = {}
    seeds = {name: derive_seed(seed, "node", name) for name in members}
    trainers = {
        name: LocalTrainer(recipe, BatchStream(source, recipe.inner.batch_size, seeds[name]).batch)
        for name, source in members.items()
    }
    for number in range(1, rounds + 1):
        mean, deltas = WeightedMean(base.schema), []
        first, total = (number - 1) * local_steps, rounds * local_steps
        plans = {name: LocalSteps(first, local_steps, total, seed, seeds[name]) for name in members}
        if cross_node:
            plans = with_offsets(trainers, base, plans)
        for name, trainer in trainers.items():
            local = plans[name]
            deltas.append(trainer.train(base, local)[0] - base)
            mean.add(deltas[-1], Fraction(1))
        values, state = outer.step(base.values, mean.mean().values, state)
        base = ParameterVector(base.schema, values)
        if on_round is not None:
            on_round(number, deltas)
    return base


def with_offsets(
    trainers: Mapping[str, LocalTrainer], base: ParameterVector, plans: Mapping[str, LocalSteps]
) -> dict[str, LocalSteps]:
    """The local steps, each with what the global sketch of `base` adds to the member's own."""
    own = {name: trainer.sketch(base, plans[name]) for name, trainer in trainers.items()}
    together = Sketch.mean((sketch, Fraction(1)) for sketch in own.values())
    return {name: replace(plans[name], offset=together.offset_from(own[name])) for name in trainers}
