"""The world of two rooms: walls stop, the door lets through, regions agree about the dynamics."""

from __future__ import annotations

import numpy as np
import pytest

from gobelin.shared.worlds import REGIONS, WORLD, Box, TwoRoom

WORLD_OF_TWO_ROOMS = TwoRoom()


def after(start: tuple[float, float], action: tuple[float, float]) -> tuple[float, float]:
    x, y = WORLD_OF_TWO_ROOMS.step(np.float32([start]), np.float32([action]))[0]
    return float(x), float(y)


def test_a_free_step_is_the_action() -> None:
    assert after((0.2, 0.3), (0.1, -0.05)) == pytest.approx((0.3, 0.25))


def test_a_step_is_no_longer_than_allowed() -> None:
    limit = WORLD_OF_TWO_ROOMS.max_step
    assert after((0.2, 0.3), (9.0, -9.0)) == pytest.approx((0.2 + limit, 0.3 - limit))


def test_the_border_stops() -> None:
    assert after((0.02, 0.98), (-0.1, 0.1)) == (0.0, 1.0)


@pytest.mark.parametrize(("x", "way"), [(0.45, 0.1), (0.55, -0.1)])
def test_the_wall_stops_and_lets_slide_along(x: float, way: float) -> None:
    found = after((x, 0.1), (way, 0.05))
    face = 0.5 + (WORLD_OF_TWO_ROOMS.half_wall if x > 0.5 else -WORLD_OF_TWO_ROOMS.half_wall)
    assert found == pytest.approx((face, 0.15), abs=1e-6)


def test_nothing_is_inside_of_the_wall_so_that_a_picture_tells_which_side_it_is_on() -> None:
    world = WORLD_OF_TWO_ROOMS
    positions = world.episodes(2000, 12, seed=0).positions[:, 1:].reshape(-1, 2)
    closed = np.abs(positions[:, 1] - world.door) > world.door_width / 2
    away = np.abs(positions[closed, 0] - 0.5)
    assert away.min() >= world.half_wall - 1e-6
    faces = np.float32([after((0.45, 0.1), (0.1, 0.0)), after((0.55, 0.1), (-0.1, 0.0))])
    left, right = world.render(faces).astype(int)
    assert np.abs(left - right).max() > 100


@pytest.mark.parametrize(("x", "way"), [(0.45, 0.1), (0.55, -0.1)])
def test_the_door_lets_through(x: float, way: float) -> None:
    assert after((x, 0.5), (way, 0.0)) == pytest.approx((x + way, 0.5))


def test_episodes_follow_the_steps() -> None:
    episodes = WORLD_OF_TWO_ROOMS.episodes(200, 12, seed=0)
    assert episodes.positions.shape == (200, 13, 2)
    for t in range(12):
        expected = WORLD_OF_TWO_ROOMS.step(episodes.positions[:, t], episodes.actions[:, t])
        assert np.array_equal(episodes.positions[:, t + 1], expected)


@pytest.mark.parametrize("name", sorted(REGIONS))
def test_a_regions_episodes_never_leave_it(name: str) -> None:
    episodes = WORLD_OF_TWO_ROOMS.episodes(500, 12, seed=0, region=REGIONS[name])
    assert len(episodes) == 500
    assert REGIONS[name].contains(episodes.positions).all()


def test_a_region_hardly_anything_stays_in_is_refused() -> None:
    with pytest.raises(ValueError, match="stay inside"):
        WORLD_OF_TWO_ROOMS.episodes(10, 12, seed=0, region=Box((0.3, 0.3001), (0.3, 0.3001)))


def test_only_paths_through_the_door_lead_to_the_other_room() -> None:
    positions = WORLD_OF_TWO_ROOMS.episodes(2000, 12, seed=0, region=WORLD).positions
    before, now = positions[:, :-1], positions[:, 1:]
    crosses = (before[..., 0] < 0.5) != (now[..., 0] < 0.5)
    assert crosses.any()
    y = (before[..., 1] + now[..., 1])[crosses] / 2
    reach = WORLD_OF_TWO_ROOMS.door_width / 2 + WORLD_OF_TWO_ROOMS.max_step / 2
    assert np.abs(y - WORLD_OF_TWO_ROOMS.door).max() <= reach


def test_the_same_seed_gives_the_same_episodes() -> None:
    a, b, c = (WORLD_OF_TWO_ROOMS.episodes(50, 12, seed=s) for s in (1, 1, 2))
    assert np.array_equal(a.positions, b.positions)
    assert not np.array_equal(a.positions, c.positions)


def test_the_picture_shows_the_dot_where_it_is_and_the_wall_with_its_door() -> None:
    pictures = WORLD_OF_TWO_ROOMS.render(np.float32([[0.2, 0.7], [0.8, 0.1]]))
    assert pictures.shape == (2, 1, 32, 32)
    assert pictures.dtype == np.uint8
    row, column = np.unravel_index(pictures[0, 0].argmax(), (32, 32))
    assert ((column + 0.5) / 32, (row + 0.5) / 32) == pytest.approx((0.2, 0.7), abs=1 / 32)
    wall = pictures[1, 0, :, 15] > 50
    assert wall[0]
    assert wall[-1]
    assert not wall[16]
