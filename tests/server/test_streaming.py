"""Rounds that exchange one fragment in turn follow Streaming DiLoCo's Algorithm 2, bit by bit."""

from __future__ import annotations

import json

import pytest
import torch

from examples.in_process import federate_in_process
from gobelin.server.outer import make_outer, state_of, step_fragment, with_state
from gobelin.shared.data import MemorySource
from gobelin.shared.fragments import Fragment, fragments_of
from gobelin.shared.recipe import load_recipe
from gobelin.shared.vector import ParameterSchema, ParameterVector
from tests.server.golden.make_streaming import (
    AWAY,
    FILE,
    FRAGMENTS,
    KINDS,
    ROUNDS,
    SCHEMA,
    TARGETS,
    descend,
    trajectory,
)


@pytest.mark.parametrize(("kind", "alpha"), KINDS)
def test_the_trajectory_is_the_golden_one(kind: str, alpha: float) -> None:
    golden = json.loads(FILE.read_text())[f"{kind}, alpha {alpha}"]
    assert trajectory(kind, alpha) == golden


def test_the_golden_trajectory_is_the_papers_algorithm() -> None:
    """Algorithm 2 of arXiv:2501.18512 with τ = 0, tensor by tensor, without any of our code.

    Fragment p of a member is set to what was shared after its turn; all others go on locally.
    """
    names = [spec.name for spec in SCHEMA.tensors]
    turn = {n: p.index for p in fragments_of(SCHEMA, FRAGMENTS) for n in p.names}
    start = ParameterVector(SCHEMA, torch.linspace(-1, 1, SCHEMA.size))
    shared = {name: tensor.clone() for name, tensor in start.tensors().items()}
    local = [dict(shared) for _ in TARGETS]
    for number in range(1, ROUNDS + 1):
        here = [m for m in range(len(TARGETS)) if (m, number) != AWAY]
        for member in here:
            local[member] = {n: descend(v, TARGETS[member]) for n, v in local[member].items()}
        due = [name for name in names if turn[name] == (number - 1) % FRAGMENTS]
        for name in due:
            shared[name] = shared[name] + sum(local[m][name] - shared[name] for m in here) / len(
                here
            )
        for member in range(len(TARGETS)):
            local[member] |= {name: shared[name] for name in due}
        golden = json.loads(FILE.read_text())["sgd, alpha 1.0"][number - 1]["base"]
        flat = torch.cat([shared[name] for name in names])
        assert flat.tolist() == pytest.approx(golden, abs=1e-6)


@pytest.mark.parametrize("kind", ["nesterov", "adam", "yogi"])
def test_a_fragment_steps_as_it_would_alone_and_moves_no_other(kind: str) -> None:
    outer = make_outer(kind)
    parts = fragments_of(SCHEMA, FRAGMENTS)
    base = whole = torch.linspace(-1, 1, SCHEMA.size)
    state, alone = {}, [({}, part.take(base)) for part in parts]
    for number in range(7):
        part = parts[number % FRAGMENTS]
        own, values = alone[part.index]
        delta = torch.full_like(values, 0.1 * (number + 1))
        values, own = outer.step(values, delta, own)
        alone[part.index] = (own, values)
        whole, state = step_fragment(outer, part, whole, delta, state)
        for other in parts:
            assert torch.equal(other.take(whole), alone[other.index][1])
            kept = state_of(other, state)
            assert {n: t.tolist() for n, t in kept.items()} == {
                n: t.tolist() for n, t in alone[other.index][0].items()
            }


def test_the_state_of_one_fragment_is_not_mistaken_for_anothers() -> None:
    schema = ParameterSchema.of_shapes({f"trunk.blocks.{i}.w": (1,) for i in range(11)})
    parts = fragments_of(schema, 11)
    state = {}
    for part in parts:
        state = with_state(part, state, {"velocity": torch.tensor([float(part.index)])})
    assert [state_of(part, state)["velocity"].item() for part in parts] == list(range(11))


# ---------------------------------------------------------------- a real federation

RECIPE = load_recipe("toy")


def members() -> dict[str, MemorySource]:
    generator = torch.Generator().manual_seed(5)
    return {
        name: MemorySource(
            torch.randint(0, 256, (48, 1, 28, 28), generator=generator, dtype=torch.uint8)
        )
        for name in ("north", "south")
    }


def federate(rounds: int = 4, **options: object) -> tuple[ParameterVector, list[int]]:
    sizes: list[int] = []
    vector = federate_in_process(
        RECIPE,
        members(),
        rounds,
        2,
        seed=3,
        on_round=lambda number, deltas: sizes.append(deltas[0].schema.size),
        **options,
    )
    return vector, sizes


def test_a_round_sends_its_share_of_the_bytes_and_a_turn_all_of_them() -> None:
    whole, sizes = federate(fragments=2)
    assert sum(sizes[:2]) == whole.schema.size
    assert sizes == sizes[:2] * 2
    assert max(sizes) < 0.7 * whole.schema.size


def test_one_fragment_is_a_plain_round() -> None:
    assert federate(fragments=1)[0].digest == federate()[0].digest


@pytest.mark.parametrize(("codec", "broadcast"), [("fp32", "fp32"), ("topk", "int4")])
def test_streaming_rounds_repeat_to_the_byte(codec: str, broadcast: str) -> None:
    options = {"fragments": 2, "alpha": 0.5, "codec": codec, "broadcast": broadcast}
    first, second = federate(**options)[0], federate(**options)[0]
    assert first.digest == second.digest
    assert first.digest != federate(fragments=2, codec=codec)[0].digest


def test_one_member_in_fragments_is_that_member_training_alone() -> None:
    """Nothing is frozen: after a turn, the consensus is what the member had when it was sent."""
    alone = {"north": members()["north"]}
    seen: list[ParameterVector] = []
    plain = federate_in_process(
        RECIPE, alone, 2, 2, seed=3, on_round=lambda number, deltas: seen.extend(deltas)
    )
    streamed = federate_in_process(RECIPE, alone, 2, 2, seed=3, fragments=2)
    first, second = fragments_of(plain.schema, 2)
    step = seen[-1].values  # of the second round, which the first fragment has not sent yet

    def apart(part: Fragment, expected: torch.Tensor) -> float:
        """In steps: rounding alone turns what has no gradient, and moves it by its rate."""
        off = part.take(streamed.values) - part.take(expected)
        return float(off.norm() / part.take(step).norm())

    assert apart(second, plain.values) < 0.05
    assert apart(first, plain.values - step) < 0.05
    assert apart(first, plain.values) == pytest.approx(1, abs=0.05)
