"""The rounds of a federation inside one process: no sockets, the same arithmetic, the same bits.

For studies of many small federations, and as the tests' reference for the real one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from torch import Tensor

from gobelin.client.trainer import LocalSteps, LocalTrainer
from gobelin.server.aggregation import InMemory
from gobelin.server.merge import Merged, Merger
from gobelin.server.outer import OuterOptimizer, OuterState, Sgd
from gobelin.server.pooling import pool_members
from gobelin.shared.codec import compress
from gobelin.shared.data import BatchStream, ImageSource
from gobelin.shared.model import build_jepa
from gobelin.shared.objective import Moments
from gobelin.shared.recipe import Recipe
from gobelin.shared.seeds import derive_seed
from gobelin.shared.vector import ParameterVector

Tamper = Callable[
    [int, ParameterVector, Mapping[str, ParameterVector]], Mapping[str, ParameterVector]
]


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
    cross_node: bool = False,
    declining: Collection[str] = (),
    merger: Merger | None = None,
    tamper: Tamper | None = None,
    on_merge: Callable[[int, Merged], None] | None = None,
) -> ParameterVector:
    """The consensus after `rounds`; `on_round` sees each round's number and the deltas as sent.

    With a codec that loses something, every member keeps a residual (error feedback).
    With one member and the default outer optimizer this is that member training alone. With
    `cross_node` all members but the `declining` ones say the moments of every base, and in the
    next round SIGReg tests the data of all who did. `tamper` turns a round's number, base and
    honest deltas, as sent, into those that are admitted, `on_merge` sees what they came to.
    """
    outer, merger = outer or Sgd(), merger or Merger()
    base = ParameterVector.of(build_jepa(recipe, seed))
    state: OuterState = {}
    memory: Mapping[str, Tensor] = {}
    residuals: dict[str, Tensor | None] = dict.fromkeys(members)
    seen: dict[str, Moments] = {}  # of the last base
    seeds = {name: derive_seed(seed, "node", name) for name in members}
    trainers = {
        name: LocalTrainer(recipe, BatchStream(source, recipe.inner.batch_size, seeds[name]).batch)
        for name, source in members.items()
    }
    for number in range(1, rounds + 1):
        deltas: Mapping[str, ParameterVector] = {}
        first, total = (number - 1) * local_steps, rounds * local_steps
        sent = {name: own for name, own in seen.items() if name not in declining}
        pooled, before, seen = pool_members(sent, {name: name for name in sent}), seen, {}
        for name, trainer in sorted(trainers.items()):
            offset = pooled.offset_from(before[name]) if pooled else None
            local = LocalSteps(first, local_steps, total, seed, seeds[name], offset)
            if cross_node and number < rounds:  # nobody would use the last base's
                seen[name] = trainer.moments(base, local)
            trained, _ = trainer.train(base, local)
            made = compress(codec, trained - base, residuals[name])
            residuals[name] = made.residual
            deltas = {**deltas, name: made.payload.decode()}
        if tamper is not None:
            deltas = tamper(number, base, deltas)
        names = sorted(deltas)
        merged = merger.merge(InMemory([deltas[name].values for name in names]), names, memory)
        memory = merged.state
        values, state = outer.step(base.values, merged.delta, state)
        base = ParameterVector(base.schema, values)
        if on_round is not None:
            on_round(number, list(deltas.values()))
        if on_merge is not None:
            on_merge(number, merged)
    return base
