"""Energy is low for what is plausible, whatever the modality; broken physics surprises."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from gobelin.shared.data.export import write_episodes
from gobelin.shared.data.trajectories import Trajectories
from gobelin.shared.errors import ConfigError, DataError
from gobelin.shared.evaluation import surprise
from gobelin.shared.evaluation.anomaly import auroc
from gobelin.shared.evaluation.energy import energy
from gobelin.shared.evaluation.expectation import (
    FAR,
    Setup,
    expectation,
    require_two_room,
    two_room_violations,
)
from gobelin.shared.model import build_jepa, encoder_of
from gobelin.shared.model.world_model import WorldModel
from gobelin.shared.planning import LinearReadout
from gobelin.shared.recipe import Recipe, load_recipe
from gobelin.shared.worlds import TwoRoom
from tests.shared.tiny_world import RECIPE, episodes, trained

SHOWN = Setup(episodes=40, steps=10, at=5)


@pytest.fixture(scope="module")
def model() -> WorldModel:
    return WorldModel(encoder_of(RECIPE, trained(150)))


@pytest.fixture(scope="module")
def seen() -> dict[str, Trajectories]:
    return two_room_violations(TwoRoom(), SHOWN)


def part(shown: Trajectories, start: int, stop: int) -> Trajectories:
    return Trajectories(shown.observations[:, start : stop + 1], shown.actions[:, start:stop])


def test_the_true_continuation_has_less_energy_than_a_shuffled_one(model: WorldModel) -> None:
    shown = episodes(60, 10, seed=9)
    context, truth = part(shown, 0, 4), part(shown, 4, 10)
    order = [0, 4, 1, 6, 3, 5, 2]  # it begins where the context ends
    shuffled = replace(truth, observations=truth.observations[:, order])
    true, false = (energy(model.encoder, context, x) for x in (truth, shuffled))
    assert true.shape == (60,)
    assert float((true < false).float().mean()) > 0.9
    assert auroc(torch.cat([true, false]), torch.arange(120) >= 60) > 0.8


def test_the_energy_of_a_continuation_is_the_surprise_of_its_steps(model: WorldModel) -> None:
    shown = episodes(5, 8, seed=3)
    found = energy(model.encoder, part(shown, 0, 3), part(shown, 3, 8))
    torch.testing.assert_close(found, model.surprise(shown)[:, 3:].mean(dim=1))


def test_a_continuation_from_elsewhere_is_refused(model: WorldModel) -> None:
    shown = episodes(5, 8, seed=3)
    with pytest.raises(DataError, match="begin where its context ends"):
        energy(model.encoder, part(shown, 0, 3), part(shown, 4, 8))
    with pytest.raises(DataError, match="as many as contexts"):
        energy(model.encoder, part(shown, 0, 3), part(episodes(4, 8, seed=3), 3, 8))
    with pytest.raises(DataError, match="no action"):
        energy(model.encoder, part(shown, 0, 3), part(shown, 3, 3))


def test_the_energy_of_a_picture_is_least_beside_itself() -> None:
    encoder = build_jepa(load_recipe("toy"), seed=0).encoder()
    pictures = encoder.modality.made_up(16, torch.Generator().manual_seed(0))
    own = energy(encoder, pictures, pictures)
    others = energy(encoder, pictures, pictures.roll(1, dims=0))
    assert own.shape == (16,)
    assert float(own.mean()) < float(others.mean())
    assert torch.equal(own, energy(encoder, pictures, pictures))  # the same seed, the same views


def test_pictures_that_do_not_fit_together_are_refused() -> None:
    encoder = build_jepa(load_recipe("toy"), seed=0).encoder()
    pictures = encoder.modality.made_up(4, torch.Generator().manual_seed(0))
    with pytest.raises(DataError, match="3 candidates for 4"):
        energy(encoder, pictures, pictures[:3])
    with pytest.raises(DataError, match="batch"):
        energy(encoder, pictures, pictures.float())


def test_a_violation_leaves_what_was_before_it_untouched(seen: dict[str, Trajectories]) -> None:
    plain = seen["untouched"]
    assert set(seen) == {
        "untouched", "teleported", "dot recoloured", "wall recoloured", "shuffled",
    }  # fmt: skip
    for name, broken in seen.items():
        assert torch.equal(broken.actions, plain.actions)
        before, after = (
            broken.observations[:, cut] == plain.observations[:, cut]
            for cut in (slice(None, SHOWN.at), slice(SHOWN.at, None))
        )
        assert bool(before.all())
        assert bool(after.flatten(1).all()) == (name == "untouched")


def test_the_teleported_dot_is_far_off_and_the_shuffled_pictures_are_the_same_ones(
    seen: dict[str, Trajectories],
) -> None:
    plain, jumped = (
        seen[name].observations[:, SHOWN.at, 0].flatten(1).argmax(dim=1)
        for name in ("untouched", "teleported")
    )
    apart = torch.stack([plain // 32 - jumped // 32, plain % 32 - jumped % 32]).float() / 32
    assert float(apart.square().sum(dim=0).sqrt().min()) > FAR - 0.1
    rest, mixed = (seen[n].observations[:, SHOWN.at :].flatten(2).sum(dim=2) for n in
                   ("untouched", "shuffled"))  # fmt: skip
    assert torch.equal(rest.sort(dim=1).values, mixed.sort(dim=1).values)


def test_a_trained_model_is_surprised_by_a_teleport_and_by_shuffled_time(
    model: WorldModel,
) -> None:
    plain = episodes(SHOWN.episodes, SHOWN.steps, seed=4)
    jumped, mixed = plain.observations.clone(), plain.observations.clone()
    jumped[:, SHOWN.at :] = jumped[:, SHOWN.at :].roll(1, dims=0)  # to where another one is
    mixed[:, SHOWN.at :] = mixed[:, SHOWN.at :].flip(1)
    shown = {
        "untouched": plain,
        "teleported": replace(plain, observations=jumped),
        "shuffled": replace(plain, observations=mixed),
        "nothing": plain,
    }
    found = expectation(model, shown, SHOWN)
    assert found["teleported"].test.p < 0.01
    assert found["teleported"].auroc > 0.8
    assert found["shuffled"].test.p < 0.01
    assert found["nothing"].test.p == 0.5  # and where nothing is broken, none is found
    assert found["nothing"].noticed == 0


def test_long_episodes_are_looked_at_in_chunks_that_look_back_far_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = RECIPE.model_dump(mode="json")
    tables["modalities"]["robot"]["objective"]["predictor"]["history"] = 3
    jepa = build_jepa(Recipe.model_validate(tables), seed=0)
    torch.manual_seed(0)
    with torch.no_grad():  # a new predictor says that nothing happens, whatever came before
        for parameter in jepa.predictors.parameters():
            parameter.normal_(std=0.3)
    model, shown = WorldModel(jepa.encoder()), episodes(2, 11, seed=6)
    observations, actions = shown.observations.numpy(), shown.actions.numpy()
    write_episodes(tmp_path / "a.npz", observations, actions)
    monkeypatch.setattr(surprise, "CHUNK", 4)
    found = list(surprise.surprises(model, surprise.open_episodes(model, tmp_path)))
    torch.testing.assert_close(torch.stack([s.energy for s in found]), model.surprise(shown))
    assert [s.episode for s in found] == ["a.npz, episode 0", "a.npz, episode 1"]


def test_a_readout_finds_a_linear_map_and_its_error() -> None:
    random = torch.Generator().manual_seed(0)
    latents, weight = torch.randn(200, 5, generator=random), torch.randn(5, 2, generator=random)
    noise = 0.1 * torch.randn(200, 2, generator=random)
    readout = LinearReadout.fit(latents, latents @ weight + 3 + noise)
    torch.testing.assert_close(readout(latents), latents @ weight + 3, atol=0.1, rtol=0)
    error = readout.error(latents, latents @ weight + 3 + noise)
    assert error.tolist() == pytest.approx([0.1, 0.1], rel=0.2)
    with pytest.raises(DataError, match="as many of each"):
        LinearReadout.fit(latents, torch.zeros(3, 2))


def test_violations_repeat_and_need_their_world(model: WorldModel) -> None:
    one, two = (two_room_violations(TwoRoom(), Setup(episodes=3)) for _ in range(2))
    for name, shown in one.items():
        assert torch.equal(shown.observations, two[name].observations)
    with pytest.raises(ConfigError, match="two rooms are grey pictures"):
        require_two_room(model)
    with pytest.raises(ConfigError, match="broken at 12"):
        Setup(at=12)


def test_recolouring_keeps_the_dot_where_it_is() -> None:
    place = np.float32([[0.3, 0.6]])
    plain, other = (TwoRoom(dot_grey=grey).render(place)[0, 0] for grey in (255, 150))
    assert plain.argmax() == other.argmax()
    assert plain.max() > other.max() > 96
