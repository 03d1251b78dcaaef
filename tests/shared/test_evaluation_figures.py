"""Health reports, planning scores and plots say what is the case."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from gobelin.shared.data import BadInput, MemorySource, Trajectories
from gobelin.shared.errors import ConfigError, DataError
from gobelin.shared.evaluation.health_report import report_health, spectrum
from gobelin.shared.evaluation.intervals import wilson
from gobelin.shared.evaluation.planning_score import score, two_room_task
from gobelin.shared.evaluation.plots import Line, bars, lines, require_format, spectra
from gobelin.shared.model import build_jepa
from gobelin.shared.recipe import load_recipe
from gobelin.shared.worlds import TwoRoom


class Windows:
    """A source of windows of episodes."""

    labels = class_names = block = None
    skipped = BadInput()

    def __init__(self, held: Trajectories) -> None:
        self.held = held

    def __len__(self) -> int:
        return len(self.held)

    def read(self, indices: npt.NDArray[np.int64]) -> Trajectories:
        at = torch.from_numpy(indices)
        return Trajectories(self.held.observations[at], self.held.actions[at])


def test_a_spectrum_is_the_shares_of_the_variance() -> None:
    random = torch.Generator().manual_seed(0)
    axes = torch.randn(4000, 2, generator=random) * torch.tensor([3.0, 1.0]) + 5
    assert spectrum(axes).tolist() == pytest.approx([0.9, 0.1], abs=0.02)
    assert spectrum(torch.ones(5, 3)).sum() == 0


def test_the_latents_of_episodes_have_a_straightness_and_no_lidar() -> None:
    recipe = load_recipe("two_room")
    encoder = build_jepa(recipe, 0).encoder()
    shown = TwoRoom().episodes(8, 6, seed=0)
    pictures = TwoRoom().render(shown.positions.reshape(-1, 2)).reshape(8, 7, 1, 32, 32)
    episodes = Trajectories(torch.from_numpy(pictures), torch.from_numpy(shown.actions))
    found = report_health(encoder, recipe.objective_of().recipe, Windows(episodes))
    assert found.straightness is not None
    assert -1 <= found.straightness <= 1
    assert (found.lidar, found.rotation) == (None, None)


def test_a_turned_model_is_told_by_its_rotation() -> None:
    recipe = load_recipe("toy")
    batch = recipe.modality().made_up(64, torch.Generator().manual_seed(0))
    one, other = (build_jepa(recipe, seed).encoder() for seed in (0, 1))
    source, objective = MemorySource(batch), recipe.objective
    found = report_health(one, objective, source, base=other)
    assert found.rotation is not None
    assert found.rotation > 20
    assert found.deviations.tolist() == sorted(found.deviations.tolist(), reverse=True)
    with pytest.raises(DataError, match="1 samples"):
        report_health(one, objective, MemorySource(batch[:1]))


def test_wilsons_interval_is_as_tables_have_it() -> None:
    assert wilson(45, 50) == pytest.approx((0.7864, 0.9565), abs=1e-4)
    assert wilson(0, 10)[0] == 0
    assert wilson(10, 10)[1] == 1


def test_the_way_ends_where_an_episode_arrives() -> None:
    world = TwoRoom()
    task = two_room_task(world, episodes=40, budget=60, seed=3)
    far = np.linalg.norm(task.starts - task.goals, axis=1)
    assert far.min() >= 0.3
    same_room = (task.starts[:, 0] < 0.5) == (task.goals[:, 0] < 0.5)
    found = score(world, task, lambda at: np.clip(task.goals - at, -0.12, 0.12))
    assert found.outcome.reached[same_room].all()
    assert not found.outcome.reached.all()  # the wall
    there = found.outcome.reached
    assert (found.length[there] >= far[there] - task.radius - 1e-5).all()
    assert (found.length[there] <= 0.17 * found.outcome.steps[there] + 1e-5).all()
    facts = found.facts()
    assert facts["steps"] <= facts["steps_with_failures"]


@pytest.mark.parametrize("kind", ["png", "svg", "pdf"])
def test_a_plot_is_the_same_file_each_time(tmp_path: Path, kind: str) -> None:
    files = [tmp_path / f"{name}.{kind}" for name in ("a", "b")]
    for path in files:
        lines(path, "a $ title", "x", "y", [Line("one", [1, 10], [2, 3], [0.1, 0.2])],
              logarithmic=True)  # fmt: skip
    assert files[0].read_bytes() == files[1].read_bytes()
    bars(files[0], "t", "%", ["a", "b"], {"x": [1.0, None], "y": [2.0, 3.0]})
    spectra(files[1], "t", [0.9, 0.1, 0.0], [1.0, 0.5, 0.0])
    assert files[0].stat().st_size > 1000
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"a.{kind}", f"b.{kind}"]


def test_a_plot_that_cannot_be_written_is_refused_before_any_work(tmp_path: Path) -> None:
    for bad in ("plot.jpg", "plot", "nowhere/plot.png"):
        with pytest.raises(ConfigError):
            require_format(tmp_path / bad)
    require_format(tmp_path / "plot.png")
