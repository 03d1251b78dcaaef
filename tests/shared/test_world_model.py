"""World models: trajectories in, latents foreseen, surprise, and plans that arrive."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from gobelin.client.trainer import LocalSteps, LocalTrainer
from gobelin.shared.data import Trajectories
from gobelin.shared.errors import ConfigError, DataError
from gobelin.shared.evaluation.foresight import foresight
from gobelin.shared.evaluation.planning import Task, drive, planning_policy
from gobelin.shared.modality.trajectory import Trajectory
from gobelin.shared.model import build_jepa, encoder_of, hollow_jepa, lent, weights_of
from gobelin.shared.model.world_model import WorldModel
from gobelin.shared.objective import Draw
from gobelin.shared.objective.next_latent import NextLatent, windows
from gobelin.shared.planning import Icem
from gobelin.shared.recipe import Recipe, load_recipe
from gobelin.shared.seeds import generator_of
from gobelin.shared.vector import ParameterVector
from gobelin.shared.worlds import TwoRoom

SMALL = Icem(samples=8, iterations=2, elites=4)


def recipe_of(**changes: object) -> Recipe:
    """The two-room recipe, smaller, with a history; `changes` are of its tables, by dotted path."""
    values = load_recipe("two_room").model_dump(mode="json")
    small: dict[str, object] = {
        "trunk.dim": 16,
        "trunk.depth": 1,
        "trunk.heads": 2,
        "projector.hidden": 16,
        "projector.out": 4,
        "modalities.robot.objective.slices": 16,
        "modalities.robot.objective.predictor.dim": 16,
        "modalities.robot.objective.predictor.depth": 1,
        "modalities.robot.objective.predictor.history": 2,
        "modalities.robot.steps": 4,
        "inner.batch_size": 16,
    }
    for path, value in {**small, **changes}.items():
        *tables, key = path.split(".")
        table = values
        for name in tables:
            table = table[name]
        table[key] = value
    return Recipe.model_validate(values)


def films(count: int = 64, steps: int = 4, seed: int = 0) -> Trajectories:
    """Windows of the whole world."""
    world = TwoRoom()
    episodes = world.episodes(count, steps, seed)
    pictures = world.render(episodes.positions.reshape(-1, 2))
    seen = torch.from_numpy(pictures).view(count, steps + 1, *pictures.shape[1:])
    return Trajectories(seen, torch.from_numpy(episodes.actions))


def batches(step: int) -> Trajectories:
    """A pure function of the step."""
    chosen = torch.randperm(64, generator=generator_of(0, "windows", step))[:16]
    everything = films()
    return Trajectories(everything.observations[chosen], everything.actions[chosen])


@pytest.fixture(scope="module")
def model() -> WorldModel:
    torch.set_num_threads(1)
    recipe = recipe_of()
    return WorldModel(encoder_of(recipe, ParameterVector.of(build_jepa(recipe, 0))))


def test_the_vector_has_a_predictor_under_the_modalitys_name() -> None:
    schema = ParameterVector.of(build_jepa(recipe_of(), 0)).schema
    assert {spec.role for spec in schema.tensors} == {
        "tokenizers", "trunk", "projector", "predictors",
    }  # fmt: skip
    own = [spec.name for spec in schema.tensors if spec.role in ("tokenizers", "predictors")]
    assert all(name.split(".")[1] == "robot" for name in own)


def test_local_steps_learn_to_foresee_and_repeat_to_the_byte() -> None:
    recipe, local = recipe_of(), LocalSteps(0, 40, 40, 1, 2)
    base = ParameterVector.of(build_jepa(recipe, 0))
    losses: list[float] = []
    first, report = LocalTrainer(recipe, batches).train(
        base, local, lambda s: losses.append(s.loss)
    )
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])
    assert report.samples == 40 * 16
    assert LocalTrainer(recipe, batches).train(base, local)[0].digest == first.digest


def test_the_loss_is_one_step_imagined_and_sigreg() -> None:
    recipe = recipe_of(**{"modalities.robot.objective.predictor.history": 1})
    encoder = build_jepa(recipe, 0).encoder()
    objective, batch = recipe.objective_of(), batches(0)
    assert isinstance(objective, NextLatent)
    with torch.no_grad():
        z = encoder(encoder.prepare(batch)).unflatten(0, (16, 5))
        # A new predictor foresees no change.
        still = (z[:, :-1] - z[:, 1:]).square().mean()
        imagined = (z[:, :1] - z[:, 1:]).square().mean()
        parts, features = objective(encoder, batch, Draw(generator_of(0, "views"), slices=3))
    assert features.shape == (80, 16)
    torch.testing.assert_close(parts.prediction, still)
    expected = still + imagined + objective.recipe.weight * parts.anti_collapse
    torch.testing.assert_close(parts.total, expected)


def test_gradient_flows_into_what_is_predicted_too() -> None:
    recipe = recipe_of()
    objective, encoder = recipe.objective_of(), build_jepa(recipe, 0).encoder()
    assert isinstance(objective, NextLatent)
    z = torch.randn(8, 5, 4, requires_grad=True)
    objective.loss(
        encoder, z, batches(0).actions[:8], Draw(generator_of(0, "x"), 0)
    ).total.backward()
    assert z.grad is not None
    assert (z.grad.abs().sum(dim=(0, 2)) > 0).all()  # no stop-gradient at any step


def test_windows_are_all_there_are() -> None:
    x = torch.arange(2 * 5).view(2, 5, 1).float()
    assert windows(x, 3)[:, :, 0].tolist() == [
        [0, 1, 2], [1, 2, 3], [2, 3, 4], [5, 6, 7], [6, 7, 8], [7, 8, 9],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda b: replace(b, actions=b.actions[:, :, :1]), "needs"),
        (lambda b: replace(b, actions=b.actions.double()), "needs"),
        (lambda b: replace(b, observations=b.observations[:, 1:]), "needs"),
        (lambda b: replace(b, observations=b.observations.float()), "uint8"),
        (lambda b: replace(b, actions=b.actions * torch.nan), "not finite"),
        (lambda b: b.observations, "needs trajectories"),
    ],
)
def test_what_is_no_trajectory_is_refused(change, told) -> None:  # type: ignore[no-untyped-def]
    modality = recipe_of().modality()
    assert isinstance(modality, Trajectory)
    modality.check(batches(0))
    with pytest.raises(DataError, match=told):
        modality.check(change(batches(0)))


def test_actions_need_a_layer_norm_and_a_trajectory() -> None:
    with pytest.raises(ConfigError, match=r'projector\.norm = "layer"'):
        build_jepa(recipe_of(**{"projector.norm": "batch"}), 0)
    images = load_recipe("toy").model_dump(mode="json")
    images["objective"] = {"kind": "next_latent"}
    with pytest.raises(ConfigError, match="image has none"):
        build_jepa(Recipe.model_validate(images), 0)


def test_a_model_of_images_is_no_world_model() -> None:
    with pytest.raises(ConfigError, match="no world model"):
        WorldModel(build_jepa(load_recipe("toy"), 0).encoder())


def test_made_up_trajectories_are_trajectories() -> None:
    modality = recipe_of().modality()
    modality.check(modality.made_up(3, generator_of(0, "gate")))


def test_the_gate_can_look_at_a_world_model_with_lent_weights() -> None:
    recipe = recipe_of()
    vector, hollow = ParameterVector.of(build_jepa(recipe, 0)), hollow_jepa(recipe)
    objective, batch = recipe.objective_of(), batches(0)
    whole = encoder_of(recipe, vector)

    def loss_of(encoder: object) -> Tensor:
        return objective(encoder, batch, Draw(generator_of(0, "v"), 1))[0].total  # type: ignore[arg-type]

    with torch.no_grad(), lent(hollow, weights_of(vector)):
        lent_loss = loss_of(hollow.encoder())
    with torch.no_grad():
        assert torch.equal(lent_loss, loss_of(whole))
    assert all(parameter.is_meta for parameter in hollow.parameters())


def test_rollout_foresees_each_candidate_by_itself(model: WorldModel) -> None:
    with torch.no_grad():
        z0 = model.encode(films(3).observations[:, 0])
        actions = torch.randn(3, 5, 6, 2, generator=generator_of(1, "plans")) / 10
        together = model.rollout(z0, actions)
        alone = model.rollout(z0[1:2], actions[1:2, 3:4])
    assert together.shape == (3, 5, 6, 4)
    torch.testing.assert_close(together[1:2, 3:4], alone)


def test_surprise_is_the_error_of_one_step_ahead(model: WorldModel) -> None:
    batch = films(6)
    energy = model.surprise(batch)
    assert energy.shape == (6, 4)
    z = model.encode(batch.observations.flatten(0, 1)).detach().view(6, 5, 4)
    # A new predictor foresees no change, so the surprise is the change.
    torch.testing.assert_close(energy, (z[:, 1:] - z[:, :-1]).square().mean(dim=-1))


def test_foresight_knows_how_far_standing_still_is_off(model: WorldModel) -> None:
    found = foresight(model, TwoRoom())
    assert found == foresight(model, TwoRoom())
    assert 0.2 < found.still < 0.4
    assert found.imagined >= found.decoded >= 0


def test_who_knows_the_world_arrives_and_who_stands_still_does_not() -> None:
    ends = np.random.default_rng(0).random((2, 8, 2), dtype=np.float32)
    ends[:, :, 0] /= 2.1  # all in the left room
    task, world = Task(ends[0], ends[1]), TwoRoom()
    there = drive(world, task, lambda at: (task.goals - at).astype(np.float32))
    assert there.success == 100
    assert (there.steps <= 10).all()
    assert (np.linalg.norm(there.last - task.goals, axis=1) <= task.radius).all()
    still = drive(world, task, np.zeros_like)
    near = np.linalg.norm(task.starts - task.goals, axis=1) <= task.radius
    assert (still.reached == near).all()
    assert (still.steps[~near] == task.budget).all()


def test_planning_by_pictures_alone_repeats_itself(model: WorldModel) -> None:
    ends = np.random.default_rng(1).random((2, 3, 2), dtype=np.float32)
    task, world = Task(ends[0], ends[1], budget=4), TwoRoom()
    runs = [
        drive(world, task, planning_policy(model, world, task, SMALL, horizon=3, seed=5))
        for _ in range(2)
    ]
    assert (runs[0].last == runs[1].last).all()
    assert (runs[0].last != task.starts).any()
