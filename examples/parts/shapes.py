"""Rendered objects of classes on two levels: twenty outlines, each in several textures."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

TEXTURES = ("stripes", "checks", "rings", "dots")
_LOBES, _ANGLES, _CYCLES = (3, 4, 5, 6), 360, 1.5  # cycles of a texture in the distance of 1 radius


def _outlines() -> Tensor:
    """The radius of each shape by angle, at most 1, ``[20, 360]``: five kinds of outlines, each of 3 to 6 lobes."""
    angle = torch.arange(_ANGLES) * 2 * math.pi / _ANGLES
    found = []
    for lobes in _LOBES:
        turn = lobes * angle
        along = (turn / (2 * math.pi)).frac()  # of a lobe, 0 to 1
        side = (along - 0.5) * 2 * math.pi / lobes
        found += [
            0.75 + 0.25 * turn.cos(),  # waves
            math.cos(math.pi / lobes) / side.cos(),  # polygons
            0.4 + 0.6 * (2 * along - 1).abs(),  # stars
            0.8 + 0.2 * turn.cos().sign(),  # cogs
            0.45 + 0.55 * (turn / 2).cos().abs(),  # flowers
        ]
    return torch.stack(found)


OUTLINES = _outlines()
SHAPES = len(OUTLINES)


def paint(images: Tensor, shapes: Tensor, textures: Tensor, colours: Tensor, places: Tensor, turns: Tensor) -> Tensor:
    """Images with one object more each.

    Args:
        images: ``[N, 3, H, H]``, of values from 0 to 1.
        shapes, textures: ``[N]``, numbers of rows of `OUTLINES` and of names in `TEXTURES`.
        colours: the two colours of each texture, ``[N, 2, 3]``.
        places: centre and radius ``[N, 3]``, where an image reaches from -1 to 1; radius 0 paints nothing.
        turns: angles ``[N]``; outline and texture turn together.
    """
    pixels = images.shape[-1]
    line = (torch.arange(pixels) + 0.5) / pixels * 2 - 1
    grid = torch.stack(torch.meshgrid(line, line, indexing="xy"))
    away = grid - places[:, :2, None, None]
    size = places[:, 2, None, None]
    angle = torch.atan2(away[:, 1], away[:, 0]) - turns[:, None, None]
    distance = away.norm(dim=1) / size.clamp_min(1e-6)
    steps = (angle * _ANGLES / (2 * math.pi)).long() % _ANGLES
    edge = OUTLINES[shapes[:, None, None], steps]
    cover = ((edge - distance) * size * pixels / 2 + 0.5).clamp(0, 1) * (size > 0)
    across, down, out = (
        (2 * math.pi * _CYCLES * part).sin() for part in (distance * angle.cos(), distance * angle.sin(), distance)
    )
    patterns = torch.stack([across, 2 * across * down, out, across + down - 0.5], dim=1)
    share = (0.5 + 1.5 * patterns[torch.arange(len(images)), textures]).clamp(0, 1)
    painted = torch.lerp(colours[:, 0, :, None, None], colours[:, 1, :, None, None], share.unsqueeze(1))
    return torch.lerp(images, painted, cover.unsqueeze(1))


def boxes_of(shapes: Tensor, places: Tensor, turns: Tensor) -> Tensor:
    """Corners ``[N, 4]`` of the boxes around painted objects, in parts of the image's side."""
    angle = torch.arange(_ANGLES) * 2 * math.pi / _ANGLES + turns.unsqueeze(1)
    outline = torch.stack([angle.cos(), angle.sin()], dim=2) * (OUTLINES[shapes] * places[:, 2:]).unsqueeze(2)
    outline = outline + places[:, None, :2]
    return torch.cat([outline.amin(dim=1), outline.amax(dim=1)], dim=1) / 2 + 0.5


def random_grounds(count: int, pixels: int, generator: torch.Generator) -> Tensor:
    """Smooth coloured images ``[N, 3, pixels, pixels]``."""
    coarse = torch.rand(count, 3, 5, 5, generator=generator)
    return F.interpolate(coarse, (pixels, pixels), mode="bilinear", align_corners=True)
