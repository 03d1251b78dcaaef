"""World models' benchmarks: foresight in the states' own units, and journeys that arrive."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gobelin.shared.data.export import write_episodes
from gobelin.shared.errors import DataError
from gobelin.shared.evaluation.benchmarks import Contender
from gobelin.shared.evaluation.intervals import Skill, difference, interval
from gobelin.shared.evaluation.surprise import open_episodes
from gobelin.shared.evaluation.world_benchmarks import Foreseeing
from gobelin.shared.model import encoder_of
from gobelin.shared.model.world_model import WorldModel
from tests.shared.tiny_world import RECIPE, episodes, trained, untrained


@pytest.fixture(scope="module")
def contenders() -> dict[str, Contender]:
    vectors = {"trained": trained(60), "untrained": untrained()}
    return {name: Contender(name, encoder_of(RECIPE, v)) for name, v in vectors.items()}


def benchmark(folder: Path, contender: Contender, horizon: int = 5, **held: object) -> Foreseeing:
    shown = episodes(200, 6, seed=9)
    arrays = {name: np.asarray(value) for name, value in held.items()}
    file = folder / f"{len(list(folder.iterdir()))}" / "episodes.npz"
    file.parent.mkdir()
    write_episodes(file, shown.observations.numpy(), shown.actions.numpy(), **arrays)
    source = open_episodes(WorldModel(contender.encoder), file)
    return Foreseeing("rooms", source, source, horizon)


def test_a_trained_model_foresees_and_an_untrained_one_does_not(
    tmp_path: Path, contenders: dict[str, Contender]
) -> None:
    task = benchmark(tmp_path, contenders["trained"])
    found = {name: task.measure(each) for name, each in contenders.items()}
    skill, none = (found[name].figures["foresight"] for name in ("trained", "untrained"))
    assert interval(skill, resamples=200).low > 15
    assert difference(skill, none, resamples=200).low > 15
    assert len(skill.strata) == 100  # one window an episode; the other half fits the readout
    facts = found["trained"].facts
    assert facts["error"] < facts["still"]
    assert found["untrained"].facts["still"] == facts["still"]  # of the world, not of a model


def test_states_that_were_recorded_are_what_is_foreseen(
    tmp_path: Path, contenders: dict[str, Contender]
) -> None:
    model = contenders["trained"]
    positions = episodes(200, 6, seed=9).observations.numpy()
    plain = benchmark(tmp_path, model).measure(model)
    scaled = benchmark(tmp_path, model, states=100 * positions).measure(model)
    assert scaled.facts["still"] == pytest.approx(100 * plain.facts["still"], rel=1e-5)
    assert isinstance(scaled.figures["foresight"], Skill)
    every = np.arange(100)
    one, other = (m.figures["foresight"].of(every) for m in (plain, scaled))
    assert one == pytest.approx(other, abs=1.0)  # skill has no unit


def test_episodes_too_short_or_states_that_do_not_fit_are_refused(
    tmp_path: Path, contenders: dict[str, Contender]
) -> None:
    model = contenders["trained"]
    with pytest.raises(DataError, match="has 7 steps"):
        benchmark(tmp_path, model, horizon=7).measure(model)
    with pytest.raises(DataError, match="observations and states do not match"):
        benchmark(tmp_path, model, states=np.zeros((200, 3, 2), np.float32))
