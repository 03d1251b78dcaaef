"""Push-T: our raster draws what gym-pusht draws; episodes push the block and repeat."""

import numpy as np
import pytest

from gobelin.shared.worlds import push_t


@pytest.fixture(scope="module")
def played():
    return push_t.play(6, 40, seed=0)


def test_our_raster_is_gym_pushts_picture_made_small(monkeypatch):
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    import gym_pusht  # noqa: F401
    import gymnasium
    from PIL import Image

    env = gymnasium.make(
        "gym_pusht/PushT-v0", obs_type="state", render_mode="rgb_array", disable_env_checker=True
    )
    for seed in range(4):
        state, _ = env.reset(seed=seed)
        theirs = np.asarray(Image.fromarray(env.render()).resize((64, 64), Image.Resampling.BOX))
        ours = push_t.render(state[None])[0].transpose(1, 2, 0)
        inner = (slice(2, -2), slice(2, -2))  # they draw a wall, we none
        difference = np.abs(theirs[inner].astype(int) - ours[inner])
        assert difference.mean() < 3
        moved = np.abs(theirs[inner].astype(int) - np.roll(ours, 2, axis=0)[inner])
        assert moved.mean() > 2 * difference.mean()
    env.close()


def test_episodes_repeat_and_their_actions_lie_within_bounds(played):
    again = push_t.play(6, 40, seed=0)
    for one, other in zip(played, again, strict=True):
        assert np.array_equal(one.states, other.states)
        assert one.states.shape == (41, 5)
        assert one.actions.shape == (40, 2)
        assert np.abs(one.actions).max() <= 1
    assert not np.array_equal(push_t.play(1, 40, seed=1)[0].states, played[0].states)


def test_scripted_episodes_push_the_block_farther_than_wandering_ones():
    def travelled(scripted):
        episodes = push_t.play(8, 60, seed=2, scripted=scripted)
        steps = [np.diff(episode.states[:, 2:4], axis=0) for episode in episodes]
        return np.mean([np.linalg.norm(step, axis=1).sum() for step in steps])

    assert travelled(1.0) > 1.5 * travelled(0.0)


def test_an_action_moves_the_agent_where_it_says(played):
    for episode in played:
        target = (episode.actions + 1) * push_t.SIDE / 2
        before = np.linalg.norm(episode.states[:-1, :2] - target, axis=1)
        after = np.linalg.norm(episode.states[1:, :2] - target, axis=1)
        far = before > 50
        assert (after < before)[far].mean() > 0.8
