"""Rooms with textured walls and a crate, seen by a walker in the first person: a vector environment of gymnasium.

A walker stands in the middle of a cell of a grid and looks in one of eight directions; it goes a cell ahead, or turns
by 45 degrees. What a column of its view shows first is found in a table: from the middle of a cell a ray always crosses
the same cells at the same depths, wherever the walker stands.

There are two tasks: to reach the crate, and to explore, which is to see parts of the floor that were not seen before.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray
from scipy import ndimage

Integers, Floats, Bytes, Flags = NDArray[np.int64], NDArray[np.float64], NDArray[np.uint8], NDArray[np.bool_]

VIEW = 32  # pixels of a side of a view, which is 90 degrees wide and high
SIZE, INNER_WALLS = 8, 7  # cells of a side of a room, with the walls around; cells of walls inside
FREE, OUTER, INNER, CRATE = range(4)  # what a cell is
AHEAD, LEFT, RIGHT = range(3)  # actions
TASKS = ("reach", "explore")
STEP_COST = 0.01
SIGHT = 1.6  # cells ahead that count as seen
NEAREST_START = 2  # cells between walker and crate
HEADINGS, TEXELS, CROSSINGS = 8, 8, 2 * SIZE

ANGLES = np.arange(HEADINGS) * (2 * np.pi / HEADINGS)
FORWARD = np.stack([np.cos(ANGLES), np.sin(ANGLES)], axis=1)
STEPS = FORWARD.round().astype(np.int64)  # in x and y; y grows downwards, so headings turn clockwise
COLUMNS = np.arange(VIEW)
LINE = (2 * COLUMNS + 1) / VIEW - 1  # where the pixels of a row or a column are, at a depth of 1


@dataclass(frozen=True, eq=False)
class Rays:
    """What rays from the middle of a cell cross, the nearest first: ``[HEADINGS, VIEW, CROSSINGS]``.

    Args:
        cells: into which cell, ``[..., 2]``, relative to the walker's.
        depths: how far ahead of the walker, not along the ray, so that walls look straight.
        places: where on the wall that is crossed, 0 to 1 along it.
        normals: of that wall, ``[..., 2]``: to the right of the view, and towards the walker.
    """

    cells: Integers
    depths: Floats
    places: Floats
    normals: Floats

    @classmethod
    def all(cls) -> Rays:
        right = np.stack([-FORWARD[:, 1], FORWARD[:, 0]], axis=1)[:, None]
        rays = FORWARD[:, None] + LINE[:, None] * right  # where they are at a depth of 1
        lines = ((np.arange(CROSSINGS) + 0.5) / np.abs(rays)[..., None]).reshape(HEADINGS, VIEW, -1)  # of x, then of y
        order = lines.argsort(axis=2)[:, :, :CROSSINGS]
        depths = np.take_along_axis(lines, order, axis=2)
        axes = np.stack([order < CROSSINGS, order >= CROSSINGS], axis=3)  # which coordinate changes
        cells = (axes.cumsum(axis=2) * np.sign(rays)[:, :, None]).astype(np.int64)
        points = 0.5 + depths[..., None] * rays[:, :, None]
        walls = -np.sign(rays)[:, :, None] * axes
        normals = np.stack([(walls * right[:, None]).sum(3), -(walls * FORWARD[:, None, None]).sum(3)], axis=3)
        return cls(cells, depths, np.where(axes[..., 0], points[..., 1], points[..., 0]) % 1, normals)


RAYS = Rays.all()
NEAR = int((RAYS.depths < SIGHT).sum(axis=2).max())  # crossings within sight


@dataclass(frozen=True, eq=False)
class Scenes:
    """Layouts, and looks that each of them can have.

    Args:
        layouts: what each cell is, without a crate, ``[A, SIZE, SIZE]``, rows first.
        textures: of outer walls, inner walls and crates, ``[B, 3, TEXELS, TEXELS, 3]``, 0 to 1.
        grounds: colours of ceiling and floor, ``[B, 2, 3]``.
    """

    layouts: Integers
    textures: Floats
    grounds: Floats

    @classmethod
    def random(cls, layouts: int, looks: int, generator: np.random.Generator) -> Scenes:
        grids = np.stack([_random_layout(generator) for _ in range(layouts)])
        textures = np.stack([_random_textures(generator) for _ in range(looks)])
        return cls(grids, textures, generator.uniform(0.1, 0.9, (looks, 2, 3)))


def _random_layout(generator: np.random.Generator) -> Integers:
    """Inner walls at random, wherever they do not part the floor."""
    layout = np.full((SIZE, SIZE), OUTER)
    layout[1:-1, 1:-1] = FREE
    for cell in generator.permutation(np.argwhere(layout == FREE)):
        layout[tuple(cell)] = INNER
        if ndimage.label(layout == FREE)[1] > 1:
            layout[tuple(cell)] = FREE
        if (layout == INNER).sum() == INNER_WALLS:
            break
    return layout


def _random_textures(generator: np.random.Generator) -> Floats:
    """Waves of two colours for the walls; every crate has a bright frame and cross on a dark ground."""
    row, column = np.indices((TEXELS, TEXELS))
    last = TEXELS - 1
    frame = (row % last == 0) | (column % last == 0) | (row == column) | (row + column == last)
    patterns = [frame.astype(float)]
    for _ in ("inner", "outer"):
        (a, b), phase = generator.integers(0, 4, 2), generator.uniform()
        waves = np.sin(2 * np.pi * ((a * row + b * column) / TEXELS + phase))
        patterns.insert(0, np.clip(0.5 + 0.5 * waves + generator.normal(0, 0.2, waves.shape), 0, 1))
    low, high = generator.uniform(size=(2, 3, 1, 1, 3))
    low[2], high[2] = 0.4 * low[2], 0.6 + 0.4 * high[2]
    return low + (high - low) * np.stack(patterns)[..., None]


@dataclass(frozen=True, eq=False)
class Surfaces:
    """What N views show.

    Args:
        cells: what kind of cell a pixel is of, ``[N, VIEW, VIEW]``; FREE where it is floor or ceiling.
        depths: ``[N, VIEW, VIEW]``, in cells.
        normals: to the right, upwards, and towards the walker, ``[N, 3, VIEW, VIEW]``.
    """

    cells: Integers
    depths: Floats
    normals: Floats


class Rooms(VectorEnv):
    """N walkers in rooms of their own; each episode has a layout, a look, a crate and a start at random.

    Observations are views ``[N, 3, VIEW, VIEW]`` in bytes; actions are AHEAD, LEFT and RIGHT. To ``reach`` gives 1 for
    walking into the crate, which ends the episode, and -`STEP_COST` for every other step. To ``explore`` gives the
    part of the free cells that is newly seen, at most `SIGHT` ahead. Episodes are cut off after ``horizon`` steps.

    An episode that ends is followed by a new one in the same step; ``info["final_obs"]`` has its last view.

    Args:
        scenes: what rooms are like.
        task: one of `TASKS`.
        num_envs: N.
        horizon: steps of the longest episode.

    Raises:
        ValueError: for another task.
    """

    def __init__(self, scenes: Scenes, task: str, num_envs: int, horizon: int = 64) -> None:
        if task not in TASKS:
            raise ValueError(f"task: expected one of {', '.join(TASKS)}, got {task!r}")
        self.metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}
        self.scenes, self.task, self.num_envs, self.horizon = scenes, task, num_envs, horizon
        self.single_observation_space = spaces.Box(0, 255, (3, VIEW, VIEW), np.uint8)
        self.single_action_space = spaces.Discrete(3)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._texels = np.ascontiguousarray(scenes.textures.reshape(-1, 3).T, np.float32)
        self.grids = np.zeros((num_envs, SIZE, SIZE), np.int64)
        self.seen = np.zeros((num_envs, SIZE, SIZE), bool)
        self.walkers = np.zeros((num_envs, 2), np.int64)  # x and y
        self.headings, self.times, self.looks = np.zeros((3, num_envs), np.int64)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Bytes, dict[str, Any]]:
        super().reset(seed=seed)
        everyone = np.arange(self.num_envs)
        self._begin(everyone)
        return self.images(everyone), {}

    def step(self, actions: Integers) -> tuple[Bytes, Floats, Flags, Flags, dict[str, Any]]:
        everyone = np.arange(self.num_envs)
        self.headings = (self.headings + np.array([0, -1, 1])[actions]) % HEADINGS
        steps = STEPS[self.headings]
        ahead, *beside = (self._cells(self.walkers + steps * along) for along in ([1, 1], [1, 0], [0, 1]))
        # Nobody squeezes through between two corners.
        unhindered = ~steps.all(axis=1) | ((beside[0] == FREE) & (beside[1] == FREE))
        walks = (actions == AHEAD) & unhindered
        self.walkers += steps * (walks & (ahead == FREE))[:, None]
        self.times += 1
        if self.task == "reach":
            terminated = walks & (ahead == CRATE)
            rewards = np.where(terminated, 1.0, -STEP_COST)
        else:
            terminated = np.zeros(self.num_envs, bool)
            rewards = self._look_around(everyone)
        truncated = (self.times == self.horizon) & ~terminated
        images, ended = self.images(everyone), terminated | truncated
        if not ended.any():
            return images, rewards, terminated, truncated, {}
        info = {"final_obs": images.copy(), "_final_obs": ended}
        self._begin(np.flatnonzero(ended))
        images[ended] = self.images(np.flatnonzero(ended))
        return images, rewards, terminated, truncated, info

    def surfaces(self, who: Integers) -> Surfaces:
        """What these walkers see: walls, with the ceiling above and the floor below."""
        found, kinds = self._first_walls(who)
        rows = LINE[:, None]
        depth, (sideways, towards) = RAYS.depths[found][:, None], np.moveaxis(RAYS.normals[found], 2, 0)[:, :, None]
        wall = np.abs(rows * depth) < 0.5  # eyes are halfway up
        normals = np.stack([sideways * wall, np.where(wall, 0, np.sign(rows)), towards * wall], axis=1)
        return Surfaces(np.where(wall, kinds[:, None], FREE), np.minimum(depth, 0.5 / np.abs(rows)), normals)

    def images(self, who: Integers) -> Bytes:
        """Views of these walkers ``[N, 3, VIEW, VIEW]``; what is far or seen from the side is darker."""
        found, kinds = self._first_walls(who)
        looks, depth = self.looks[who], RAYS.depths[found].astype(np.float32)
        heights = LINE.astype(np.float32)[:, None] * depth[:, None]  # below the eyes, which are halfway up
        down = np.clip(TEXELS * (heights + 0.5), 0, TEXELS - 1).astype(np.int64)
        along = (looks[:, None] * 3 + kinds - 1) * TEXELS**2 + (RAYS.places[found] * TEXELS).astype(np.int64)
        light = (0.6 + 0.4 * RAYS.normals[found][..., 1]) / (1 + 0.1 * depth)
        colours = np.take(self._texels, along[:, None] + TEXELS * down, axis=1) * light[:, None].astype(np.float32)
        grounds = 0.6 * self.scenes.grounds[looks][:, (LINE > 0).astype(int)] / (1 + 0.05 / np.abs(LINE))[:, None]
        np.copyto(colours, np.moveaxis(grounds, 2, 0)[..., None], where=np.abs(heights) >= 0.5)
        return np.ascontiguousarray((255 * colours).astype(np.uint8).swapaxes(0, 1))

    def _first_walls(self, who: Integers) -> tuple[tuple[Integers, Integers, Integers], Integers]:
        """Where each ray first enters a cell that is not free, as indices of `RAYS`; and its kind."""
        x, y = self._crossed(who, CROSSINGS)
        crossed = self.grids[who[:, None, None], y, x]
        first = (crossed != FREE).argmax(axis=2)
        kinds = np.take_along_axis(crossed, first[..., None], axis=2)[..., 0]
        return (self.headings[who][:, None], COLUMNS, first), kinds

    def _cells(self, places: Integers) -> Integers:
        """What cells are, ``[N]``, at the places ``[N, 2]``."""
        return self.grids[np.arange(self.num_envs), places[:, 1], places[:, 0]]

    def _crossed(self, who: Integers, crossings: int) -> Integers:
        """Where cells are that rays cross, ``[2, N, VIEW, crossings]``, x and y; walls hide what is not in the room."""
        cells = self.walkers[who][:, None, None] + RAYS.cells[self.headings[who], :, :crossings]
        return np.moveaxis(np.clip(cells, 0, SIZE - 1), 3, 0)

    def _look_around(self, who: Integers) -> Floats:
        """Marks what these walkers see, and says which part of their free cells is new."""
        before = self.seen[who].sum(axis=(1, 2))
        x, y = self._crossed(who, NEAR)
        visible = np.logical_and.accumulate(self.grids[who[:, None, None], y, x] == FREE, axis=2)
        near = np.nonzero(visible & (RAYS.depths[self.headings[who], :, :NEAR] < SIGHT))
        self.seen[who[near[0]], y[near], x[near]] = True
        self.seen[who, self.walkers[who, 1], self.walkers[who, 0]] = True
        return (self.seen[who].sum(axis=(1, 2)) - before) / (self.grids[who] == FREE).sum(axis=(1, 2))

    def _begin(self, who: Integers) -> None:
        """New episodes: crates and walkers on free cells, apart from each other; what is seen first gives nothing."""
        random, scenes = self.np_random, self.scenes
        self.grids[who] = scenes.layouts[random.integers(len(scenes.layouts), size=len(who))]
        self.looks[who] = random.integers(len(scenes.textures), size=len(who))
        self.headings[who] = random.integers(HEADINGS, size=len(who))
        self.times[who], self.seen[who] = 0, False
        for walker in who:
            free = np.argwhere(self.grids[walker] == FREE)
            crate = free[random.integers(len(free))]
            far = free[np.abs(free - crate).max(axis=1) >= NEAREST_START]
            self.grids[walker][tuple(crate)] = CRATE
            self.walkers[walker] = far[random.integers(len(far))][::-1]
        self._look_around(who)
