"""The rounds of a federation inside one process: no sockets, the same arithmetic, the same bits.

For studies of many small federations, and as the tests' reference for the real one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from torch import Tensor

from gobelin.client.sealer import on_grid
from gobelin.client.trainer import LocalSteps, LocalTrainer
from gobelin.server.aggregation import InMemory
from gobelin.server.broadcast import Broadcast, broadcast_fragment
from gobelin.server.groups import move_groups
from gobelin.server.merge import Counted, Merged, Merger
from gobelin.server.outer import OuterOptimizer, OuterState, Sgd
from gobelin.server.pooling import pool_modalities
from gobelin.shared.codec import compress
from gobelin.shared.data import BatchStream, Source
from gobelin.shared.fragments import fragment_of_round, start_of_round
from gobelin.shared.model import build_jepa
from gobelin.shared.objective import Moments
from gobelin.shared.recipe import Recipe
from gobelin.shared.schedule import Schedule
from gobelin.shared.sealing import Ring
from gobelin.shared.seeds import derive_seed
from gobelin.shared.vector import ParameterVector

Tamper = Callable[
    [int, ParameterVector, Mapping[str, ParameterVector]], Mapping[str, ParameterVector]
]


def federate_in_process(
    recipe: Recipe,
    members: Mapping[str, Source],
    rounds: int,
    local_steps: int,
    seed: int,
    outer: OuterOptimizer | None = None,
    on_round: Callable[[int, list[ParameterVector]], None] | None = None,
    codec: str = "fp32",
    *,
    broadcast: str = "fp32",
    cross_node: bool = False,
    declining: Collection[str] = (),
    taken: Mapping[str, int] | None = None,
    warmup_rounds: int = 0,
    fragments: int = 1,
    alpha: float = 1.0,
    merger: Merger | None = None,
    modalities: Mapping[str, str] | None = None,
    ring: Ring | None = None,
    node_seeds: Mapping[str, int] | None = None,
    tamper: Tamper | None = None,
    on_merge: Callable[[int, Merged], None] | None = None,
    on_broadcast: Callable[[int, Broadcast], None] | None = None,
) -> ParameterVector:
    """The consensus after `rounds`; `on_round` sees each round's number and the deltas as sent.

    With a codec that loses something, every member keeps a residual (error feedback), as the
    aggregator does with a `broadcast` that loses something.
    With one member and the default outer optimizer this is that member training alone. With
    `cross_node` all members but the `declining` ones say the moments of every base, and in the
    next round SIGReg tests the data of all who did. The first `warmup_rounds` have one local step.
    `taken` says how many of the local steps members take that are short of time. Of `fragments` a
    round exchanges one, which members take into their own models with the share `alpha`.
    `modalities` says of which modality members' data are, where the recipe has several.
    `node_seeds` are those of members whose data have a private order. With a `ring` deltas are on
    the grid of sealed rounds, and `codec` has no say. `tamper` turns a round's number, base and
    honest deltas, as sent, into those that are admitted, `on_merge` sees what they came to,
    `on_broadcast` how members are told.
    """
    outer, merger = outer or Sgd(), merger or Merger()
    base = ParameterVector.of(build_jepa(recipe, seed))
    state: OuterState = {}
    memory: Mapping[str, Tensor] = {}
    owed: Tensor | None = None  # by the broadcast
    residuals: dict[str, Tensor | None] = dict.fromkeys(members)
    seen: dict[str, Moments] = {}  # of the last base
    own: dict[str, Tensor] = {}  # members' models after the last round
    seeds = {name: derive_seed(seed, "node", name) for name in members} | dict(node_seeds or {})
    of = {name: (modalities or {}).get(name) for name in members}
    told_of = {name: recipe.told(modality) for name, modality in of.items()}
    trainers = {
        name: LocalTrainer(
            recipe,
            BatchStream(source, recipe.inner.batch_size, seeds[name]).batch,
            modality=of[name],
        )
        for name, source in members.items()
    }
    schedule = Schedule(rounds, local_steps, warmup_rounds)
    for number in range(1, rounds + 1):
        deltas: Mapping[str, ParameterVector] = {}
        asked = schedule.steps_of(number)
        steps = {name: min(asked, (taken or {}).get(name, asked)) for name in members}
        first, total = schedule.first_step(number), schedule.total_steps
        fragment = fragment_of_round(base.schema, fragments, number)
        sent = {name: mine for name, mine in seen.items() if name not in declining}
        owners = {name: name for name in sent}
        pools = pool_modalities(sent, owners, told_of, recipe.told_modalities)
        before, seen = seen, {}
        for name, trainer in sorted(trainers.items()):
            pooled = pools.pooled.get(told_of[name]) if pools else None
            offset = pooled.offset_from(before[name]) if pooled else None
            local = LocalSteps(first, steps[name], total, seed, seeds[name], offset)
            if cross_node and number < rounds:  # nobody would use the last base's
                seen[name] = trainer.moments(base, local)
            start = base
            if name in own:
                start = start_of_round(number, base, fragments, number - 1, own[name], alpha)
            trained, _ = trainer.train(start, local)
            own[name], debt = trained.values, residuals[name]
            part = fragment.part(told_of[name])
            due = None if debt is None else part.take(debt)
            delta = part.of(trained) - part.of(base)
            made = on_grid(ring, delta, due, 0.0) if ring else compress(codec, delta, due)
            residuals[name] = part.owe(debt, made.residual)
            deltas = {**deltas, name: made.payload.decode()}
        if tamper is not None:
            deltas = tamper(number, base, deltas)
        names = sorted(deltas)
        counted = [Counted(name, steps[name], modality=told_of[name]) for name in names]
        admitted = {
            group.group: InMemory(
                [
                    group.within(fragment.part(told_of[name])).of(deltas[name]).values
                    for name in names
                    if group.trained_by(told_of[name])
                ]
            )
            for group in fragment.groups(recipe.told_modalities)
        }
        moved = move_groups(
            merger,
            outer,
            fragment,
            recipe.told_modalities,
            admitted,
            counted,
            base.values,
            state,
            memory,
        )
        merged, state, memory = moved.merged, moved.outer, moved.merge
        wanted = ParameterVector(base.schema, moved.values)
        told = broadcast_fragment(broadcast, fragment, base, wanted, owed)
        base, owed = told.consensus, told.owed
        if on_round is not None:
            on_round(number, list(deltas.values()))
        if on_merge is not None:
            on_merge(number, merged)
        if on_broadcast is not None:
            on_broadcast(number, told)
    return base
