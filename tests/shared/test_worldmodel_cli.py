"""`gobelin worldmodel`: answers where it can, and one clear error where it can't."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import Result
from PIL import Image
from typer.testing import CliRunner

from gobelin.shared.checkpoint import write_checkpoint
from gobelin.shared.data.export import write_episodes
from gobelin.shared.errors import GobelinError
from gobelin.shared.model import build_jepa
from gobelin.shared.recipe import load_recipe
from gobelin.shared.vector import ParameterVector
from gobelin.shared.worldmodel.cli import app
from gobelin.shared.worlds import TwoRoom
from tests.shared.tiny_world import RECIPE, episodes, trained

Ask = Callable[..., Result]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained model of positions, an untrained one of pictures, and what they are asked."""
    folder = tmp_path_factory.mktemp("worldmodel")
    write_checkpoint(folder / "positions", RECIPE, trained(150), {})
    for name in ("two_room", "toy"):
        recipe = load_recipe(name)
        vector = ParameterVector.of(build_jepa(recipe, seed=0))
        write_checkpoint(folder / name, recipe, vector, {})
    np.save(folder / "start.npy", np.float32([0.2, 0.3]))
    np.save(folder / "goal.npy", np.float32([0.35, 0.6]))
    np.save(folder / "nan.npy", np.float32([0.2, np.nan]))
    np.save(folder / "long.npy", np.zeros(3, dtype=np.float32))
    np.save(folder / "plans.npy", np.full((3, 4, 2), 0.05))
    np.save(folder / "pickled.npy", np.array([{}]), allow_pickle=True)
    pictures = TwoRoom().render(np.float32([[0.2, 0.3], [0.4, 0.6]]))
    for name, picture in zip(("start", "goal"), pictures, strict=True):
        Image.fromarray(picture[0]).save(folder / f"{name}.png")
    Image.new("L", (33, 32)).save(folder / "wide.png")
    np.save(folder / "grey.npy", pictures[0, 0])
    np.save(folder / "floats.npy", pictures[0].astype(np.float32) / 255)
    shown = episodes(12, 10, seed=2)
    odd = shown.observations.clone()
    odd[7, 6:] = 1 - odd[7, 6:]
    positions = odd.numpy()
    write_episodes(folder / "episodes" / "a.npz", positions, shown.actions.numpy(), positions)
    return folder


@pytest.fixture
def ask(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Ask:
    monkeypatch.chdir(folder)
    return lambda *arguments: CliRunner().invoke(app, [str(a) for a in arguments])


def answer(result: Result) -> dict:
    assert result.exit_code == 0, result.exception
    return json.loads(result.stdout)


def refused(result: Result, exit_code: int, what: str) -> None:
    assert isinstance(result.exception, GobelinError), result.exception
    assert result.exception.exit_code == exit_code
    assert what in str(result.exception)


PLAN = ("plan", "positions", "--start", "start.npy", "--goal", "goal.npy", "--planner", "icem")


@pytest.mark.parametrize("planner", ["cem", "icem", "mppi", "gradient"])
def test_a_plan_leads_to_the_goal_in_the_world_itself(ask: Ask, planner: str) -> None:
    Path("quick.toml").write_text("samples = 64\niterations = 8\n")
    found = answer(ask(*PLAN[:-1], planner, "--settings", "quick.toml", "--bounds", 0.1, "--json"))
    actions = np.float32(found["actions"])
    assert actions.shape == (12, 2)
    assert np.abs(actions).max() <= 0.1 + 1e-6
    assert found["feasible"]
    path = TwoRoom().follow(np.float32([[0.2, 0.3]]), actions[None])[0]
    away = np.linalg.norm(path - np.float32([0.35, 0.6]), axis=1)
    assert away[-1] < 0.5 * away[0]
    assert found["to_goal"][-1] < found["start_to_goal"]


def test_the_same_seed_plans_the_same_and_writes_it(ask: Ask) -> None:
    one, two, other = (
        answer(ask(*PLAN, "--seed", seed, "--out", "plan.npy", "--json")) for seed in (1, 1, 2)
    )
    assert one == two
    assert one["actions"] != other["actions"]
    np.testing.assert_allclose(np.load("plan.npy"), other["actions"], rtol=1e-6)
    assert "every constraint kept" in ask(*PLAN).stdout


def test_an_option_wins_over_the_file_and_each_setting_counts(ask: Ask) -> None:
    Path("all.toml").write_text(
        'planner = "cem"\nhorizon = 5\nsamples = 64\niterations = 4\nspend_at_most = 0.2\n'
        "low = [0.0, -0.1]\nhigh = [0.1, 0.1]\nmax_change = [0.02, 0.02]\nevery_step = false\n"
        "effort = 0.1\n"
    )
    found = answer(ask(*PLAN, "--settings", "all.toml", "--horizon", 6, "--json"))
    actions = np.float32(found["actions"])
    assert actions.shape == (6, 2)
    assert actions[:, 0].min() >= 0
    assert np.abs(np.diff(actions, axis=0)).max() <= 0.02 + 1e-6
    assert np.abs(actions).sum() <= 0.2 + 1e-5


def test_a_plan_keeps_out_of_a_box_and_says_how_well_states_are_read(ask: Ask) -> None:
    Path("box.toml").write_text(
        "samples = 128\n[[keep_within]]\nlow = [-1.0, -1.0]\nhigh = [2.0, 0.45]\n"
    )
    found = answer(ask(*PLAN, "--settings", "box.toml", "--readout", "episodes", "--json"))
    states = np.float32(found["states"])
    assert states.shape == (12, 2)
    assert states[:, 1].max() <= 0.45 + 1e-6
    free = answer(ask(*PLAN, "--readout", "episodes", "--json"))
    assert np.float32(free["states"])[:, 1].max() > 0.45  # which it does not keep by itself
    assert max(found["state_error"]) < 0.15


def test_where_no_plan_is_allowed_the_error_is_plan_and_its_exit_code_29(ask: Ask) -> None:
    Path("none.toml").write_text("[[keep_within]]\nlow = [5.0, 5.0]\nhigh = [6.0, 6.0]\n")
    refused(
        ask(*PLAN, "--settings", "none.toml", "--readout", "episodes"), 29, "keeps the constraints"
    )


@pytest.mark.parametrize(
    ("text", "exit_code", "what"),
    [
        ("horizn = 3", 10, "did you mean 'horizon'"),
        ("horizon = 0", 10, "greater than or equal to 1"),
        ("low = [0.0, 0.0]", 10, "low and high go together"),
        ("low = [0.0]\nhigh = [1.0]", 10, "low has 1 numbers"),
        ("low = [1.0, 1.0]\nhigh = [0.0, 0.0]", 29, "the lower not below"),
        ("[[keep_out]]\nlow = [0.0, 0.0]\nhigh = [1.0, 1.0]", 10, "--readout"),
        ("[[keep_out]]\nlow = [1.0]\nhigh = [0.0]", 10, "each low below its high"),
    ],
)
def test_settings_that_make_no_problem_are_refused(
    ask: Ask, text: str, exit_code: int, what: str
) -> None:
    Path("bad.toml").write_text(text)
    refused(ask(*PLAN, "--settings", "bad.toml"), exit_code, what)


@pytest.mark.parametrize(
    ("start", "what"),
    [
        ("nan.npy", "not finite"),
        ("long.npy", "an observation is 3, the model sees 2"),
        ("missing.npy", "No such file"),
        ("pickled.npy", "no .npy file of numbers"),
        ("start.png", "the model sees 2 numbers"),
    ],
)
def test_an_observation_the_model_cannot_see_is_refused(ask: Ask, start: str, what: str) -> None:
    refused(ask("plan", "positions", "--start", start, "--goal", "goal.npy"), 12, what)


@pytest.mark.parametrize(
    ("start", "what"),
    [("wide.png", "33 x 32"), ("floats.npy", "whole numbers"), ("start.npy", "1 x 32 x 32")],
)
def test_a_picture_of_another_size_or_kind_is_refused(ask: Ask, start: str, what: str) -> None:
    refused(ask("plan", "two_room", "--start", start, "--goal", "goal.png"), 12, what)


def test_a_damaged_picture_is_refused(ask: Ask) -> None:
    Path("cut.png").write_bytes(Path("start.png").read_bytes()[:60])
    refused(ask("plan", "two_room", "--start", "cut.png", "--goal", "goal.png"), 12, "cut.png")


def test_a_picture_and_its_array_are_the_same_observation(ask: Ask) -> None:
    np.save("one.npy", np.zeros((2, 2)))
    one, two = (
        answer(ask("rollout", "two_room", "--start", start, "--actions", "one.npy", "--json"))
        for start in ("start.png", "grey.npy")
    )
    assert one == two


def test_what_is_no_world_model_is_refused(ask: Ask) -> None:
    refused(ask("plan", "toy", "--start", "start.png", "--goal", "goal.png"), 10, "no world model")
    refused(ask("surprise", "toy", "--data", "episodes"), 10, "no world model")
    refused(ask("surprise", "episodes", "--data", "episodes"), 21, "no checkpoint")


@pytest.mark.parametrize("bounds", ["wide", "1:2:3", "1"])
def test_bounds_are_read_or_refused(ask: Ask, bounds: str) -> None:
    result = ask(*PLAN, "--bounds", bounds, "--json")
    if bounds == "1":
        assert answer(result)
    else:
        refused(result, 10, "are no bounds")


def test_a_rollout_writes_latents_and_distances(ask: Ask) -> None:
    given = ("rollout", "positions", "--start", "start.npy", "--actions", "plans.npy")
    facts = answer(ask(*given, "--goal", "goal.npy", "--out", "found.npz", "--json"))
    found = np.load("found.npz")
    assert found["latents"].shape == (3, 4, 4)
    np.testing.assert_allclose(found["to_goal"], facts["to_goal"])
    away = np.float32(facts["from_start"])
    assert away.shape == (3, 4)
    assert (np.diff(away, axis=1) > 0).all()  # straight on, further and further
    assert "from start" in ask(*given).stdout


def test_actions_of_another_width_or_not_finite_are_refused(ask: Ask) -> None:
    np.save("wide.npy", np.zeros((4, 3)))
    np.save("bad.npy", np.full((4, 2), np.inf))
    given = ("rollout", "positions", "--start", "start.npy", "--actions")
    refused(ask(*given, "wide.npy"), 12, "the model takes (H, 2)")
    refused(ask(*given, "bad.npy"), 12, "not finite")


def test_the_broken_episode_surprises_most_and_where_it_is_broken(ask: Ask) -> None:
    facts = answer(ask("surprise", "positions", "--data", "episodes", "--csv", "e.csv", "--json"))
    assert facts["most_surprising"][0] == "a.npz, episode 7"
    assert facts["episodes"][7]["peak_step"] == 5
    assert len(facts["episodes"]) == 12
    with Path("e.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 120
    energy = [float(row["energy"]) for row in rows if row["episode"] == "a.npz, episode 7"]
    assert energy == pytest.approx(facts["episodes"][7]["energy"])
    assert "a.npz, episode 7" in ask("surprise", "positions", "--data", "episodes").stdout


def test_episodes_with_nan_are_refused_by_name(ask: Ask) -> None:
    shown = episodes(2, 4, seed=2)
    broken = shown.observations.numpy().copy()
    broken[1, 2] = np.nan
    write_episodes(Path("broken") / "b.npz", broken, shown.actions.numpy())
    refused(ask("surprise", "positions", "--data", "broken"), 12, "b.npz, episode 1")


def test_expectation_tells_each_violation(ask: Ask) -> None:
    given = ("expectation", "two_room", "--world", "two-room", "--episodes", 4)
    facts = answer(ask(*given, "--json"))
    assert set(facts["violations"]) == {
        "teleported", "dot recoloured", "wall recoloured", "shuffled",
    }  # fmt: skip
    assert all(0 <= taken["p"] <= 1 for taken in facts["violations"].values())
    assert "AUROC" in ask(*given).stdout
    refused(ask("expectation", "positions", "--world", "two-room"), 10, "two rooms are grey")


def test_long_episodes_are_looked_at_in_chunks_alike(ask: Ask, monkeypatch) -> None:
    from gobelin.shared.evaluation import surprise

    whole = answer(ask("surprise", "positions", "--data", "episodes", "--json"))
    monkeypatch.setattr(surprise, "CHUNK", 3)
    parts = answer(ask("surprise", "positions", "--data", "episodes", "--json"))
    for one, two in zip(whole["episodes"], parts["episodes"], strict=True):
        torch.testing.assert_close(torch.tensor(one["energy"]), torch.tensor(two["energy"]))
