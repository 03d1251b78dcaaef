"""Scores are the aggregator's own, bounded in what they give, and refuse only real harm."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from gobelin.client.trainer import LocalSteps, LocalTrainer
from gobelin.server.evidence import (
    ENOUGH,
    GRID,
    LEAST,
    MOST,
    REMEMBERED,
    of_members,
    on_grid,
    quality_floor,
    relative,
    remember,
)
from gobelin.server.probe import ProbeLoss, open_probe
from gobelin.shared.data import BatchStream, MemorySource
from gobelin.shared.errors import DataError
from gobelin.shared.model import build_jepa
from gobelin.shared.recipe import load_recipe
from gobelin.shared.vector import ParameterVector

RECIPE = load_recipe("toy")
ON_GRID = st.integers(-(2**20), 2**20).map(lambda steps: steps * GRID)
MEMBERS = st.dictionaries(st.sampled_from("abcdefgh"), ON_GRID, min_size=1)


# ---------------------------------------------------------------- the grid


@given(st.floats(-100, 100))
def test_a_score_is_the_nearest_point_of_the_grid(value: float) -> None:
    assert abs(on_grid(value) - value) <= GRID / 2
    assert on_grid(on_grid(value)) == on_grid(value)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_no_score(value: float) -> None:
    assert math.isnan(on_grid(value))


# ---------------------------------------------------------------- weights


@given(MEMBERS)
def test_no_evidence_gives_more_than_four_times_anothers_voice(scores: dict[str, float]) -> None:
    assert all(LEAST <= voice <= MOST for voice in relative(scores).values())


@given(MEMBERS, st.integers(-10, 10))
def test_a_common_scale_of_evidence_does_not_matter(scores: dict[str, float], power: int) -> None:
    scaled = {name: math.ldexp(score, power) for name, score in scores.items()}
    assert relative(scaled) == relative(scores)


@given(MEMBERS, st.randoms(use_true_random=False))
def test_the_order_of_members_does_not_matter(scores: dict[str, float], random) -> None:
    names = list(scores)
    random.shuffle(names)
    assert relative({name: scores[name] for name in names}) == relative(scores)


@given(MEMBERS, ON_GRID, st.data())
def test_a_better_score_never_gives_less(
    scores: dict[str, float], more: float, data: st.DataObject
) -> None:
    member = data.draw(st.sampled_from(sorted(scores)))
    raised = relative({**scores, member: max(scores[member], more)})
    assert raised[member] >= relative(scores)[member]


def test_voices_are_in_units_of_the_median_member_that_helped() -> None:
    found = relative({"a": 0.25, "b": 0.5, "c": 0.75, "d": 8.0, "e": -3.0})
    assert found == {
        "a": LEAST,
        "b": Fraction(1),
        "c": Fraction(3, 2),
        "d": MOST,
        "e": LEAST,
    }


def test_where_nobody_helped_all_weigh_the_same() -> None:
    assert set(relative({"a": -1.0, "b": 0.0, "c": -5.0}).values()) == {Fraction(1)}


@given(ON_GRID, st.integers(1, 9))
def test_a_member_scores_as_its_nodes_do_on_average(score: float, nodes: int) -> None:
    assert of_members([("a", score)] * nodes) == {"a": score}
    assert of_members([("b", 1.0), ("a", 0.0), ("b", 0.5)]) == {"a": 0.0, "b": 0.75}


# ---------------------------------------------------------------- the floor


def test_a_harmful_contribution_lies_below_the_floor_and_a_different_one_above() -> None:
    honest = [0.20, 0.22, 0.21, 0.19, 0.18]
    floor = quality_floor([*honest, -0.21], [], 3.0)
    assert -0.21 < floor < -0.02  # another world's data may well cost the probe a little


@given(st.lists(ON_GRID, min_size=ENOUGH, max_size=9), st.floats(0.1, 10))
def test_nothing_that_does_not_harm_is_below_the_floor(scores: list[float], tau: float) -> None:
    assert quality_floor(scores, [], tau) < 0


def test_agreement_to_the_last_digit_condemns_nobody() -> None:
    assert quality_floor([0.2] * 7, [], 3.0) == pytest.approx(-0.06)
    assert quality_floor([0.0] * 7, [], 3.0) == -3 * GRID


@pytest.mark.parametrize("liars", [1, 2, 3])
def test_a_minority_of_liars_does_not_choose_the_floor(liars: int) -> None:
    honest = [0.20, 0.22, 0.21, 0.19, 0.18, 0.20, 0.21]
    for lie in (-1e6, 1e6):
        assert quality_floor([*honest, *[lie] * liars], [], 3.0) > -0.2


def test_few_contributions_are_held_against_the_history() -> None:
    history = [0.2, 0.3, 0.25, 0.2]
    assert quality_floor([0.2, -9.0], history, 3.0) == quality_floor(history, [], 3.0)
    assert quality_floor([0.2, -9.0], history[:3], 3.0) == -math.inf


@given(st.lists(ON_GRID, max_size=2 * REMEMBERED), MEMBERS)
def test_the_history_is_bounded_and_keeps_the_latest(
    history: list[float], scores: dict[str, float]
) -> None:
    kept = remember(history, scores)
    assert len(kept) == min(REMEMBERED, len(history) + len(scores))
    assert kept[-len(scores) :] == [scores[m] for m in sorted(scores)]


# ---------------------------------------------------------------- the probe


def images(count: int, seed: int = 0) -> torch.Tensor:
    """Smooth random patterns, which a JEPA can learn something of."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 1, 7, 7, generator=generator)
    fine = torch.nn.functional.interpolate(coarse, (28, 28), mode="bilinear")
    return (255 * fine).to(torch.uint8)


@pytest.fixture(scope="module")
def base() -> ParameterVector:
    return ParameterVector.of(build_jepa(RECIPE, 3))


@pytest.fixture(scope="module")
def delta(base: ParameterVector) -> ParameterVector:
    """What honest training on other images of the same kind comes to."""
    stream = BatchStream(MemorySource(images(64, seed=1)), 16, seed=2)
    trained, _ = LocalTrainer(RECIPE, stream.batch).train(base, LocalSteps(0, 30, 60, 1, 2))
    return trained - base


@pytest.fixture
def evidence() -> ProbeLoss:
    return ProbeLoss(RECIPE, 3, MemorySource(images(64)))


def test_training_helps_and_its_opposite_harms(
    evidence: ProbeLoss, base: ParameterVector, delta: ParameterVector
) -> None:
    score = evidence.score(base, delta)
    assert score > 100 * GRID
    assert evidence.score(base, ParameterVector(base.schema, -delta.values)) < -score / 4
    assert evidence.score(base, ParameterVector.zeros(base.schema)) == 0
    assert score == on_grid(score)


def test_a_score_is_the_same_whenever_it_is_measured(
    evidence: ProbeLoss, base: ParameterVector, delta: ParameterVector
) -> None:
    first = evidence.score(base, delta)
    evidence.score(base + delta, delta)  # another round's base in between
    again = ProbeLoss(RECIPE, 3, MemorySource(images(64)))
    assert first == evidence.score(base, delta) == again.score(base, delta)


def test_a_model_that_overflows_has_no_score(evidence: ProbeLoss, base: ParameterVector) -> None:
    huge = ParameterVector(base.schema, torch.full_like(base.values, 1e38))
    assert math.isnan(evidence.score(base, huge))


def test_the_probe_is_read_like_a_nodes_data_and_bounded(tmp_path: Path) -> None:
    for number, image in enumerate(images(40)):
        Image.fromarray(np.asarray(image[0])).save(tmp_path / f"{number:02d}.png")
    probe = open_probe(tmp_path, RECIPE, 3, 20)
    assert len(probe) == 20
    every = np.arange(20)
    assert torch.equal(probe.read(every), open_probe(tmp_path, RECIPE, 3, 20).read(every))
    assert not torch.equal(probe.read(every), open_probe(tmp_path, RECIPE, 4, 20).read(every))
    assert len(open_probe(tmp_path, RECIPE, 3, 4000)) == 40


def test_a_probe_too_small_for_the_objective_is_refused(tmp_path: Path) -> None:
    for number, image in enumerate(images(5)):
        Image.fromarray(np.asarray(image[0])).save(tmp_path / f"{number:02d}.png")
    with pytest.raises(DataError, match=r"holds 5 images.*policy.probe"):
        open_probe(tmp_path, RECIPE, 3, 20)
