"""The rooms: what is seen in them, how walkers move, and what they are given."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from parts.rooms import (
    AHEAD,
    CRATE,
    FORWARD,
    FREE,
    HEADINGS,
    INNER,
    INNER_WALLS,
    LEFT,
    LINE,
    NEAREST_START,
    OUTER,
    RIGHT,
    SIGHT,
    SIZE,
    STEP_COST,
    VIEW,
    Rooms,
    Scenes,
)

MIDDLE = SIZE // 2


@pytest.fixture(scope="module")
def scenes() -> Scenes:
    return Scenes.random(6, 5, np.random.default_rng(0))


@pytest.fixture
def empty_room() -> Scenes:
    scenes = Scenes.random(1, 1, np.random.default_rng(1))
    scenes.layouts[0, 1:-1, 1:-1] = FREE
    return scenes


def placed(scenes: Scenes, task: str, walker: tuple[int, int], heading: int, crate: tuple[int, int]) -> Rooms:
    """One walker and a crate where the test wants them, as x and y, at the beginning of an episode."""
    rooms = Rooms(scenes, task, 1)
    rooms.reset(seed=0)
    rooms.grids[rooms.grids == CRATE] = FREE
    rooms.grids[0, crate[1], crate[0]] = CRATE
    rooms.walkers[0], rooms.headings[0] = walker, heading
    return rooms


def act(rooms: Rooms, *actions: int) -> float:
    """Takes actions, and gives the last reward."""
    return [rooms.step(np.array([action]))[1][0] for action in actions][-1]


def test_layouts_are_connected_rooms_with_walls_around(scenes: Scenes) -> None:
    for layout in Scenes.random(100, 1, np.random.default_rng(1)).layouts:
        assert (layout[[0, -1]] == OUTER).all()
        assert (layout[:, [0, -1]] == OUTER).all()
        assert (layout == INNER).sum() == INNER_WALLS
        assert ndimage.label(layout == FREE)[1] == 1
    assert len({layout.tobytes() for layout in scenes.layouts}) == 6
    assert len({texture.tobytes() for texture in scenes.textures}) == 5


def test_views_are_those_of_rays_that_are_followed_in_small_steps(scenes: Scenes) -> None:
    rooms = Rooms(scenes, "reach", 8)
    rooms.reset(seed=1)
    rooms.headings[:] = np.arange(HEADINGS)
    surfaces = rooms.surfaces(np.arange(8))
    steps = np.arange(1, 20_000) * 1e-3
    for walker in range(8):
        forward = FORWARD[rooms.headings[walker]]
        right = np.array([-forward[1], forward[0]])
        for row, column in np.random.default_rng(walker).integers(0, VIEW, (20, 2)):
            x, y = rooms.walkers[walker][:, None] + 0.5 + steps * (forward + LINE[column] * right)[:, None]
            cells = rooms.grids[
                walker, y.astype(int) % SIZE, x.astype(int) % SIZE
            ]  # behind the walls it does not matter
            ground = np.abs(steps * LINE[row]) > 0.5
            hit = ((cells != FREE) | ground).argmax()
            assert surfaces.depths[walker, row, column] == pytest.approx(steps[hit], abs=2e-3)
            assert surfaces.cells[walker, row, column] == (FREE if ground[hit] else cells[hit])


def test_normals_have_length_one_and_point_towards_the_walker(scenes: Scenes) -> None:
    rooms = Rooms(scenes, "reach", 40)
    rooms.reset(seed=2)
    normals = rooms.surfaces(np.arange(40)).normals
    np.testing.assert_allclose(np.square(normals).sum(axis=1), 1)
    # Where a pixel looks: to the right, upwards, and towards the walker, which is against its direction.
    looks = np.stack(np.broadcast_arrays(LINE, -LINE[:, None], np.full((VIEW, VIEW), -1.0)))
    assert ((normals * looks).sum(axis=1) < 0).all()


def test_a_wall_straight_ahead_is_seen_as_it_is(empty_room: Scenes) -> None:
    rooms = placed(empty_room, "reach", (2, 3), 0, (1, 1))
    surfaces = rooms.surfaces(np.array([0]))
    assert surfaces.depths[0, VIEW // 2, VIEW // 2] == pytest.approx(SIZE - 1 - 2.5)
    np.testing.assert_allclose(surfaces.normals[0, :, VIEW // 2, VIEW // 2], [0, 0, 1], atol=1e-12)
    image = rooms.images(np.array([0]))[0]
    assert image.shape == (3, VIEW, VIEW)
    assert image.dtype == np.uint8
    look = rooms.looks[0]
    light = 1 / (1 + 0.1 * (SIZE - 3.5))
    place = surfaces.depths[0, VIEW // 2, VIEW // 2] * LINE[VIEW // 2] + 0.5
    texel = empty_room.textures[look, OUTER - 1, int(place * 8), int(place * 8)]
    np.testing.assert_allclose(image[:, VIEW // 2, VIEW // 2], 255 * light * texel, atol=1)
    np.testing.assert_allclose(image[:, 0, 0], 255 * 0.6 * empty_room.grounds[look, 0] / (1 + 0.05 / -LINE[0]), atol=1)


def test_a_turn_to_the_right_moves_what_is_seen_to_the_left(empty_room: Scenes) -> None:
    rooms = placed(empty_room, "reach", (MIDDLE, MIDDLE), 0, (MIDDLE + 2, MIDDLE))
    columns = []
    for action in (RIGHT, LEFT, LEFT):
        act(rooms, action)
        columns.append(np.nonzero(rooms.surfaces(np.array([0])).cells[0] == CRATE)[1].mean())
    assert columns[0] < VIEW / 2 - 4 < columns[1] < VIEW / 2 + 4 < columns[2]


def test_walkers_go_where_they_look_and_stop_at_walls_and_between_corners(empty_room: Scenes) -> None:
    rooms = placed(empty_room, "explore", (2, 2), 0, (1, SIZE - 2))
    act(rooms, AHEAD)
    assert rooms.walkers[0].tolist() == [3, 2]
    act(rooms, RIGHT, AHEAD)  # to the south-east
    assert rooms.walkers[0].tolist() == [4, 3]
    rooms.grids[0, 4, 4] = INNER  # south of it
    act(rooms, AHEAD)
    assert rooms.walkers[0].tolist() == [4, 3]
    rooms.grids[0, 4, 4] = FREE
    act(rooms, LEFT, *[AHEAD] * SIZE)
    assert rooms.walkers[0].tolist() == [SIZE - 2, 3]
    assert rooms.headings[0] == 0
    act(rooms, *[RIGHT] * (HEADINGS - 1))
    assert rooms.headings[0] == HEADINGS - 1


def test_touching_the_crate_ends_an_episode_of_reach_only(empty_room: Scenes) -> None:
    rooms = placed(empty_room, "reach", (2, 2), 0, (4, 2))
    assert act(rooms, AHEAD) == -STEP_COST
    last = rooms.images(np.array([0]))
    _, rewards, terminated, truncated, info = rooms.step(np.array([AHEAD]))
    assert (rewards[0], terminated[0], truncated[0]) == (1.0, True, False)
    np.testing.assert_array_equal(info["final_obs"], last)  # it has not moved
    assert rooms.times[0] == 0
    rooms = placed(empty_room, "explore", (2, 2), 0, (3, 2))
    _, _, terminated, truncated, info = rooms.step(np.array([AHEAD]))
    assert not terminated[0]
    assert not truncated[0]
    assert not info


def test_exploring_gives_each_cell_once(empty_room: Scenes) -> None:
    rooms = placed(empty_room, "explore", (MIDDLE, MIDDLE), 0, (1, 1))
    rooms.seen[:] = False
    free = (SIZE - 2) ** 2 - 1
    given = act(rooms, LEFT) * free
    assert given == pytest.approx(rooms.seen.sum())
    assert 0 < given < free
    assert act(rooms, LEFT, *[RIGHT] * 1) == 0  # where it has looked before
    total = rooms.seen.sum()
    assert act(rooms, *[RIGHT] * 6) * free == pytest.approx(rooms.seen.sum() - total, abs=free)
    y, x = np.nonzero(rooms.seen[0])
    assert np.hypot(x - MIDDLE, y - MIDDLE).max() < 2 * SIGHT


def test_episodes_end_at_the_horizon_and_begin_anew(scenes: Scenes) -> None:
    rooms = Rooms(scenes, "explore", 5, horizon=3)
    rooms.reset(seed=3)
    for _ in range(2):
        assert not rooms.step(np.full(5, LEFT))[3].any()
    images, _, terminated, truncated, info = rooms.step(np.full(5, LEFT))
    assert truncated.all()
    assert not terminated.any()
    assert (rooms.times == 0).all()
    assert info["_final_obs"].all()
    assert (info["final_obs"] != images).any(axis=(1, 2, 3)).all()
    y, x = np.nonzero(rooms.grids == CRATE)[1:]
    far = np.abs(np.stack([x, y], axis=1) - rooms.walkers).max(axis=1)
    assert (far >= NEAREST_START).all()


def test_a_seed_gives_the_same_episodes(scenes: Scenes) -> None:
    views = []
    for seed in (4, 4, 5):
        rooms = Rooms(scenes, "reach", 3)
        rooms.reset(seed=seed)
        views.append(rooms.step(np.array([AHEAD, LEFT, RIGHT]))[0])
        assert rooms.observation_space.contains(views[-1])
    np.testing.assert_array_equal(views[0], views[1])
    assert (views[0] != views[2]).any()


def test_another_task_is_refused(scenes: Scenes) -> None:
    with pytest.raises(ValueError, match="task: expected one of reach, explore, got 'fly'"):
        Rooms(scenes, "fly", 1)
