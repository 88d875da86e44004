"""Rendered objects: they are where their boxes say, and look like their classes."""

from __future__ import annotations

import math

import torch

from parts.shapes import OUTLINES, SHAPES, TEXTURES, boxes_of, paint


def objects(count: int) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    shapes, textures = (torch.randint(top, (count,), generator=generator) for top in (SHAPES, len(TEXTURES)))
    middle, size, turn = torch.rand(3, count, 2, generator=generator)
    places = torch.cat([0.6 * middle - 0.3, 0.3 + 0.3 * size[:, :1]], dim=1)
    return shapes, textures, places, 2 * math.pi * turn[:, 0]


def test_boxes_are_those_of_what_is_painted() -> None:
    shapes, textures, places, turns = objects(15)
    images = paint(torch.zeros(15, 3, 150, 150), shapes, textures, torch.ones(15, 2, 3), places, turns)
    for image, box in zip(images, boxes_of(shapes, places, turns)):
        rows, columns = ((image[0] > 0.5).any(dim=dim).nonzero().flatten() for dim in (1, 0))
        seen = torch.stack([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]) / 150
        torch.testing.assert_close(seen, box, atol=0.02, rtol=0)  # tips of stars are thinner than a pixel


def test_outlines_fill_the_unit_circle_and_differ() -> None:
    torch.testing.assert_close(OUTLINES.amax(dim=1), torch.ones(SHAPES), atol=0.01, rtol=0)
    assert (OUTLINES > 0.3).all()
    assert (torch.cdist(OUTLINES, OUTLINES) + 100 * torch.eye(SHAPES)).min() > 0.5


def test_radius_nought_paints_nothing_and_a_texture_has_two_colours() -> None:
    shapes, _, places, turns = objects(4)
    images, textures = torch.rand(4, 3, 64, 64), torch.arange(4)
    colours = torch.tensor([[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]]).expand(4, 2, 3)
    absent = paint(images, shapes, textures, colours, places * torch.tensor([1, 1, 0]), turns)
    assert torch.equal(absent, images)
    painted = paint(torch.zeros(4, 3, 64, 64), shapes, textures, colours, places, turns)
    inside = painted.sum(dim=1) > 0.99
    for colour in range(2):
        share = ((painted[:, colour] > 0.9) & inside).sum(dim=(1, 2)) / inside.sum(dim=(1, 2))
        assert (share > 0.1).all()
    assert (painted[:, 2] == 0).all()
