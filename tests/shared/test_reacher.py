"""The arm: rigid bodies, and momentum that three pictures show where one does not."""

from __future__ import annotations

import numpy as np
import pytest

from gobelin.shared.worlds import Reacher

ARM = Reacher()


def energy(state: np.ndarray) -> float:
    """Kinetic energy of the two rods, by their own masses (1) and lengths (1)."""
    (first, second), (own, bent) = state[:2], state[2:4]
    total = own + bent
    # the first rod turns about its end; the second one's middle moves, and it turns about that
    elbow = own * np.array([-np.sin(first), np.cos(first)])
    middle = elbow + 0.5 * total * np.array([-np.sin(first + second), np.cos(first + second)])
    return float(own**2 / 6 + middle @ middle / 2 + total**2 / 24)


def test_without_damping_and_torque_no_energy_is_lost() -> None:
    free = Reacher(damping=(0.0, 0.0), substeps=2000)
    state = np.zeros((1, 8), dtype=np.float32)
    state[0, :4] = 0.3, 0.7, 2.0, -1.0
    before = energy(state[0])
    for _ in range(8):
        state = free.step(state, np.zeros((1, 2), dtype=np.float32))
    assert energy(state[0]) == pytest.approx(before, rel=2e-3)
    assert abs(state[0, 2] - 2.0) > 0.01  # the links do pull at each other


def test_a_push_moves_a_joint_and_damping_stops_it() -> None:
    state = ARM.at_rest(np.zeros((1, 2), dtype=np.float32))
    pushed = ARM.step(state, np.float32([[1.0, 0.0]]))
    assert pushed[0, 2] > 0.5
    slower = ARM.step(pushed, np.zeros((1, 2), dtype=np.float32))
    assert 0 < slower[0, 2] < pushed[0, 2]
    assert np.array_equal(ARM.step(state, np.float32([[9.0, 0.0]])), pushed)  # at most that much


def test_three_pictures_tell_how_it_moves_where_one_does_not() -> None:
    still = ARM.at_rest(np.float32([[0.4, 0.9]]))
    moving = still.copy()
    moving[0, 4:] -= 0.3  # it came from elsewhere
    seen, other = ARM.render(np.concatenate([still, moving]))
    assert np.array_equal(seen[0], other[0])
    assert not np.array_equal(seen[1], other[1])
    assert np.array_equal(seen[0], seen[1])  # at rest, all three are the same


def test_the_arm_is_drawn_where_its_joints_are() -> None:
    angles = np.float32([[0.0, np.pi / 2]])
    ((elbow, tip),) = ARM.joints(angles)
    assert elbow == pytest.approx((0.7, 0.5))
    assert tip == pytest.approx((0.7, 0.7))
    picture = ARM.draw(angles)[0]
    assert picture[16, 19] > 80  # (x, y) = (0.6, 0.5), on the first link
    assert picture[19, 22] > 200  # (0.7, 0.6), on the second
    assert picture[6, 6] == 0


def test_an_episode_remembers_the_two_poses_before() -> None:
    states = ARM.episodes(5, 6, seed=3).states
    assert np.array_equal(states[:, 2:, 4:6], states[:, 1:-1, :2])
    assert np.array_equal(states[:, 2:, 6:8], states[:, :-2, :2])
    again = ARM.episodes(5, 6, seed=3)
    assert np.array_equal(states, again.states)


def test_how_far_it_is_off_counts_the_elbow_too() -> None:
    one, other = np.float32([[0.5, 0.6]]), np.float32([[1.1, -0.6]])  # mirrored: the same tip
    assert ARM.joints(one)[0, 1] == pytest.approx(ARM.joints(other)[0, 1], abs=1e-6)
    apart = np.linalg.norm(ARM.joints(one)[0, 0] - ARM.joints(other)[0, 0])
    assert ARM.off(ARM.at_rest(one), ARM.at_rest(other)) == pytest.approx(apart, abs=1e-6)
    assert ARM.off(ARM.at_rest(one), ARM.at_rest(one + np.float32(2 * np.pi))) < 1e-5
