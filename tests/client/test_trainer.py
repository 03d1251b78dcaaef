"""Local training repeats to the byte, survives a kill, and keeps its warm state."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from gobelin.client.trainer import (
    MOMENTS_SAMPLES,
    DivergedError,
    LocalSteps,
    LocalTrainer,
    StepReport,
    learning_rate,
)
from gobelin.shared.errors import DataError, NamesError, ShapeError
from gobelin.shared.model import build_jepa
from gobelin.shared.objective import Moments
from gobelin.shared.recipe import InnerRecipe, Recipe, load_recipe
from gobelin.shared.seeds import generator_of
from gobelin.shared.vector import ParameterVector

H = 4
VIEWS = 2  # of a sample, in the toy recipe
FIRST = LocalSteps(first_step=0, steps=H, total_steps=4 * H, seed=1, node_seed=2)
SECOND = replace(FIRST, first_step=H)


@pytest.fixture
def toy() -> Recipe:
    return load_recipe("toy")


@pytest.fixture
def base(toy: Recipe) -> ParameterVector:
    return ParameterVector.of(build_jepa(toy, seed=0))


def batches(step: int) -> Tensor:
    """Blobs at places that depend on the step: images with something to learn."""
    where = torch.rand(16, 2, 1, 1, generator=generator_of(0, "data", step)) * 2 - 1
    axis = torch.linspace(-1, 1, 28)
    distance = (axis[:, None] - where[:, :1]) ** 2 + (axis - where[:, 1:]) ** 2
    return (255 * torch.exp(-4 * distance)).to(torch.uint8)


def test_the_same_local_steps_give_the_same_bytes(toy: Recipe, base: ParameterVector) -> None:
    digests = {LocalTrainer(toy, batches).train(base, FIRST)[0].digest for _ in range(2)}
    assert len(digests) == 1
    assert base.digest not in digests


def test_a_restarted_node_goes_on_to_the_byte(
    toy: Recipe, base: ParameterVector, tmp_path: Path
) -> None:
    undisturbed = LocalTrainer(toy, batches)
    middle, _ = undisturbed.train(base, FIRST)
    save_file(undisturbed.state(), tmp_path / "inner.safetensors")
    end, _ = undisturbed.train(middle, SECOND)

    restarted = LocalTrainer(toy, batches)
    restarted.load_state(load_file(tmp_path / "inner.safetensors"))
    assert restarted.train(middle, SECOND)[0].digest == end.digest
    assert LocalTrainer(toy, batches).train(middle, SECOND)[0].digest != end.digest


def test_two_rounds_on_one_base_are_one_long_round(toy: Recipe, base: ParameterVector) -> None:
    """With one member and outer step 1, a round boundary must not be noticeable."""
    parted = LocalTrainer(toy, batches)
    middle, _ = parted.train(base, FIRST)
    end, _ = parted.train(middle, SECOND)
    whole, _ = LocalTrainer(toy, batches).train(base, replace(FIRST, steps=2 * H))
    assert whole.digest == end.digest


def test_weights_start_from_the_base_but_moments_go_on(toy: Recipe, base: ParameterVector) -> None:
    trainer = LocalTrainer(toy, batches)
    first, _ = trainer.train(base, FIRST)
    again, _ = trainer.train(base, FIRST)
    assert first.digest != again.digest
    assert trainer.state()["step"] == 2 * H


@pytest.mark.parametrize("seed", ["seed", "node_seed"])
def test_both_seeds_matter(toy: Recipe, base: ParameterVector, seed: str) -> None:
    other = replace(FIRST, **{seed: 99})
    one, two = (LocalTrainer(toy, batches).train(base, local)[0] for local in (FIRST, other))
    assert one.digest != two.digest


def test_training_leaves_the_global_random_state_alone(toy: Recipe, base: ParameterVector) -> None:
    before = torch.get_rng_state()
    LocalTrainer(toy, batches).train(base, FIRST)
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.backends.cudnn.allow_tf32


def test_fp32_is_fp32_while_training(toy: Recipe, base: ParameterVector) -> None:
    seen: list[bool] = []
    LocalTrainer(toy, batches).train(
        base, FIRST, lambda report: seen.append(torch.backends.cudnn.allow_tf32)
    )
    assert seen == [False] * H


def test_training_lowers_the_loss_and_keeps_the_model_alive(
    toy: Recipe, base: ParameterVector
) -> None:
    trainer = LocalTrainer(toy, batches)
    local = replace(FIRST, steps=60, total_steps=60)
    losses: list[float] = []
    _, report = trainer.train(base, local, lambda step: losses.append(step.loss))
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])
    assert report.health.collapse < 0.2
    assert report.health.effective_rank > 2
    assert report.samples == 60 * 16


def test_steps_are_reported_as_they_happen(toy: Recipe, base: ParameterVector) -> None:
    reports: list[StepReport] = []
    _, total = LocalTrainer(toy, batches).train(base, SECOND, reports.append)
    assert [r.step for r in reports] == [4, 5, 6, 7]
    assert [r.done for r in reports] == [1, 2, 3, 4]
    assert all(r.effective_rank > 0 and r.samples_per_second > 0 for r in reports)
    assert reports[-1].seconds_left == 0
    assert total.loss == pytest.approx(sum(r.loss for r in reports) / H)


def test_reporting_does_not_change_the_result(toy: Recipe, base: ParameterVector) -> None:
    silent, _ = LocalTrainer(toy, batches).train(base, FIRST)
    watched, _ = LocalTrainer(toy, batches).train(base, FIRST, lambda step: None)
    assert silent.digest == watched.digest


def test_interrupted_local_steps_can_be_repeated_to_the_byte(
    toy: Recipe, base: ParameterVector
) -> None:
    def stop(step: StepReport) -> None:
        if step.done == 3:
            raise KeyboardInterrupt

    trainer = LocalTrainer(toy, batches)
    with pytest.raises(KeyboardInterrupt):
        trainer.train(base, FIRST, stop)
    undisturbed, _ = LocalTrainer(toy, batches).train(base, FIRST)
    assert trainer.train(base, FIRST)[0].digest == undisturbed.digest


def test_a_diverging_run_stops_with_the_step_and_a_remedy(
    toy: Recipe, base: ParameterVector
) -> None:
    wild = toy.model_copy(update={"inner": InnerRecipe(batch_size=16, lr=1e30, warmup=0)})
    trainer = LocalTrainer(wild, batches)
    with pytest.raises(DivergedError, match=r"step \d.*inner\.lr"):
        trainer.train(base, replace(FIRST, steps=10))
    assert trainer.state()["step"] == 0


@pytest.mark.parametrize(
    "batch",
    [
        torch.zeros(16, 1, 28, 28),
        torch.zeros(16, 3, 28, 28).byte(),
        torch.zeros(1, 1, 28, 28).byte(),
    ],
    ids=["floats", "colour", "one image"],
)
def test_unusable_batches_are_refused(toy: Recipe, base: ParameterVector, batch: Tensor) -> None:
    with pytest.raises(DataError):
        LocalTrainer(toy, lambda step: batch).train(base, FIRST)


@pytest.mark.parametrize(
    ("spoil", "error"),
    [
        (lambda state: state.pop("step"), NamesError),
        (lambda state: state.update(other=torch.zeros(1)), NamesError),
        (lambda state: state.update({"exp_avg.trunk.norm.bias": torch.zeros(3)}), ShapeError),
    ],
)
def test_a_state_of_another_model_is_refused(
    toy: Recipe, spoil: Callable[[dict[str, Tensor]], object], error: type[Exception]
) -> None:
    trainer = LocalTrainer(toy, batches)
    state = trainer.state()
    spoil(state)
    with pytest.raises(error):
        trainer.load_state(state)


def test_bf16_trains_fp32_parameters(toy: Recipe, base: ParameterVector) -> None:
    local = replace(FIRST, steps=20, total_steps=20)
    exact, full = LocalTrainer(toy, batches).train(base, local)
    rough, half = LocalTrainer(toy, batches, precision="bf16").train(base, local)
    assert rough.values.dtype == torch.float32
    assert rough.digest != exact.digest
    assert half.loss == pytest.approx(full.loss, rel=0.1)


def test_the_learning_rate_warms_up_and_follows_one_cosine_over_the_federation() -> None:
    inner = InnerRecipe(lr=1.0, final_lr=0.1, warmup=0.1)
    rates = [learning_rate(step, 100, inner) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == pytest.approx(1.0)
    assert rates[55] == pytest.approx(0.55)
    assert rates[100] == pytest.approx(0.1)
    assert all(a >= b for a, b in pairwise(rates[10:]))


def test_matrices_decay_and_biases_and_norms_do_not(toy: Recipe) -> None:
    decaying, still = LocalTrainer(toy, batches).optimizer.param_groups
    assert all(p.ndim >= 2 for p in decaying["params"])
    assert all(p.ndim == 1 for p in still["params"])
    assert (decaying["weight_decay"], still["weight_decay"]) == (0.05, 0.0)


@pytest.mark.slow
def test_a_compiled_model_trains_as_the_plain_one(toy: Recipe, base: ParameterVector) -> None:
    """By the loss: Adam makes full-size steps of gradients that are zero but for rounding."""
    _, plain = LocalTrainer(toy, batches).train(base, FIRST)
    _, compiled = LocalTrainer(toy, batches, compile=True).train(base, FIRST)
    assert compiled.loss == pytest.approx(plain.loss, rel=1e-4)
    assert compiled.gradient_norm == pytest.approx(plain.gradient_norm, rel=1e-3)


def test_moments_repeat_to_the_byte_and_leave_the_trainer_as_it_was(
    toy: Recipe, base: ParameterVector
) -> None:
    trainer = LocalTrainer(toy, batches)
    undisturbed = LocalTrainer(toy, batches).train(base, FIRST)[0].digest
    first, second = (trainer.moments(base, FIRST) for _ in range(2))
    assert first.digest == second.digest
    assert first.mean.shape == (toy.projector.out,)
    assert first.samples == FIRST.steps * toy.inner.batch_size * VIEWS
    assert trainer.train(base, FIRST)[0].digest == undisturbed


def test_moments_are_of_no_more_batches_than_they_need(toy: Recipe, base: ParameterVector) -> None:
    local = replace(FIRST, steps=1000, total_steps=1000)
    made = LocalTrainer(toy, batches).moments(base, local)
    assert made.samples == MOMENTS_SAMPLES * VIEWS


def test_moments_are_of_the_nodes_own_views(toy: Recipe, base: ParameterVector) -> None:
    trainer = LocalTrainer(toy, batches)
    other = replace(FIRST, node_seed=FIRST.node_seed + 1)
    assert trainer.moments(base, FIRST).digest != trainer.moments(base, other).digest


def test_an_offset_changes_what_is_learned_and_its_absence_nothing(
    toy: Recipe, base: ParameterVector
) -> None:
    trainer = LocalTrainer(toy, batches)
    own = trainer.moments(base, FIRST)
    other = Moments.of(torch.full((8, toy.projector.out), 0.3))
    pooled = Moments.pool([(own, Fraction(1)), (other, Fraction(1))])
    guided = trainer.train(base, replace(FIRST, offset=pooled.offset_from(own)))[0]
    alone = LocalTrainer(toy, batches).train(base, FIRST)[0]
    assert guided.digest != alone.digest


# ---------------------------------------------------------------- fewer steps where time is short


class Clock:
    """Every look at it costs so many seconds: one look a step, and one at the start."""

    def __init__(self, *seconds: float) -> None:
        self.seconds, self.now = list(seconds), 0.0

    def __call__(self) -> float:
        self.now += self.seconds.pop(0) if len(self.seconds) > 1 else self.seconds[0]
        return self.now


@pytest.mark.parametrize(
    ("seconds", "taken"), [(0.5, 1), (1.0, 1), (1.9, 1), (2.0, 2), (3.5, 3), (4.0, 4), (99.0, 4)]
)
def test_steps_end_before_the_time_is_over_and_one_is_always_taken(
    seconds: float, taken: int, toy: Recipe, base: ParameterVector
) -> None:
    short = LocalTrainer(toy, batches, clock=Clock(1.0))
    trained, report = short.train(base, replace(FIRST, seconds=seconds))
    assert report.steps == taken
    assert report.samples == 16 * taken
    whole, expected = LocalTrainer(toy, batches).train(base, replace(FIRST, steps=taken))
    assert trained.digest == whole.digest  # the first of the same steps, at the same rate
    assert report.loss == expected.loss
    assert report.health == expected.health


def test_a_first_step_that_warms_up_does_not_count_for_the_others(
    toy: Recipe, base: ParameterVector
) -> None:
    warming = LocalTrainer(toy, batches, clock=Clock(0.0, 30.0, 1.0))
    assert warming.train(base, replace(FIRST, seconds=62.0))[1].steps == H
    stalling = LocalTrainer(toy, batches, clock=Clock(0.0, 1.0, 1.0, 30.0, 1.0))
    assert stalling.train(base, replace(FIRST, seconds=62.0))[1].steps == H
    assert stalling.train(base, replace(SECOND, seconds=2.5))[1].steps == 2


def test_looking_at_a_step_after_the_next_has_begun_changes_no_byte(
    toy: Recipe, base: ParameterVector
) -> None:
    """As on an accelerator, which would have to wait for whoever looks at once."""
    seen: list[StepReport] = []
    late: list[StepReport] = []
    trained, report = LocalTrainer(toy, batches).train(base, FIRST, seen.append)
    trainer = LocalTrainer(toy, batches)
    trainer._lag = 1
    again, later_report = trainer.train(base, FIRST, late.append)
    assert again.digest == trained.digest
    assert [(r.step, r.done, r.loss) for r in late] == [(r.step, r.done, r.loss) for r in seen]
    assert (later_report.steps, later_report.loss) == (report.steps, report.loss)


@pytest.mark.parametrize(("seconds", "taken"), [(1.0, 2), (2.9, 2), (3.0, 3), (99.0, 4)])
def test_a_step_that_has_begun_is_counted_when_the_time_is_over(
    seconds: float, taken: int, toy: Recipe, base: ParameterVector
) -> None:
    short = LocalTrainer(toy, batches, clock=Clock(1.0))
    short._lag = 1
    trained, report = short.train(base, replace(FIRST, seconds=seconds))
    assert (report.steps, report.samples) == (taken, 16 * taken)
    whole, _ = LocalTrainer(toy, batches).train(base, replace(FIRST, steps=taken))
    assert trained.digest == whole.digest


def test_a_divergence_seen_late_spoils_nothing(toy: Recipe, base: ParameterVector) -> None:
    trainer = LocalTrainer(toy, batches)
    trainer._lag = 1
    trainer.train(base, FIRST)
    before = trainer.state()
    wild = ParameterVector(base.schema, base.values * 1e30)
    with pytest.raises(DivergedError, match=f"step {H}"):
        trainer.train(wild, SECOND)
    after = trainer.state()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_node_short_of_time_is_in_step_again_in_the_next_round(
    toy: Recipe, base: ParameterVector
) -> None:
    slow = LocalTrainer(toy, batches, clock=Clock(1.0))
    slow.train(base, replace(FIRST, seconds=2.0))
    seen: list[StepReport] = []
    slow.train(base, SECOND, seen.append)
    assert [report.step for report in seen] == list(range(H, 2 * H))
    assert int(slow.state()["step"]) == 2 + H
