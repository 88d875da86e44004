"""Rendered videos in which an object is to be tracked, training pairs from them, and boxes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

TEMPLATE, WINDOW = 32, 64  # pixels of the object as it is shown first, and of where it is looked for


@dataclass(frozen=True, eq=False)
class Videos:
    """N videos: textured ellipses move, turn and grow over a textured ground; the first ellipse is to be tracked.

    Args:
        ground: colours ``[N, 3, H, W]``.
        textures: of the M ellipses, ``[N, M, 3, H, W]``.
        centres, axes: ``[N, T, M, 2]``, centre and half axes; a frame reaches from -1 to 1.
        angles: ``[N, T, M]``.
    """

    ground: Tensor
    textures: Tensor
    centres: Tensor
    axes: Tensor
    angles: Tensor

    @classmethod
    def random(cls, times: Tensor, generator: torch.Generator, ellipses: int = 4) -> Videos:
        """Videos at the times ``[N, T]``, in frames. The other ellipses wear half of the target's texture."""

        def uniform(*shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
            return low + (high - low) * torch.rand(*shape, generator=generator)

        def waves(*shape: int, period: float) -> Tensor:
            """Smooth functions of time between -1 and 1, ``[N, T, ellipses, *shape]``."""
            rates, phases = uniform(2, count, 1, ellipses, *shape).unbind()
            turns = times.view(count, -1, 1, *[1] * len(shape)) * (0.5 + rates / 2) / period + phases
            return (2 * math.pi * turns).sin()

        count = len(times)
        textures = uniform(count, ellipses, 3, 6, 6)
        textures[:, 1:] = (textures[:, 1:] + textures[:, :1]) / 2
        sizes = uniform(count, 1, ellipses, 1, low=0.1, high=0.2)
        aspects = uniform(count, 1, ellipses, 1, low=-0.3, high=0.3).exp()
        axes = torch.cat([sizes * aspects, sizes / aspects], dim=3) * (0.3 * waves(1, period=20)).exp()
        centres = 0.6 * waves(2, period=30) + 0.08 * waves(2, period=7)
        return cls(uniform(count, 3, 16, 16), textures, centres, axes, 2 * waves(period=25))

    @property
    def boxes(self) -> Tensor:
        """Of the target, ``[N, T, 4]``: centre and size, in x and y."""
        (a, b), angle = self.axes[:, :, 0].unbind(dim=2), self.angles[:, :, 0]
        half = torch.stack(
            [torch.hypot(a * angle.cos(), b * angle.sin()), torch.hypot(a * angle.sin(), b * angle.cos())]
        )
        return torch.cat([self.centres[:, :, 0], 2 * half.movedim(0, 2)], dim=2)

    def view(self, frame: int, centre: Tensor, side: Tensor, pixels: int) -> Tensor:
        """What a square window at ``centre [N, 2]`` with ``side [N]`` shows, ``[N, 3, pixels, pixels]``."""
        line = (torch.arange(pixels) + 0.5) / pixels - 0.5
        points = torch.stack(torch.meshgrid(line, line, indexing="xy"), dim=2) * side.view(-1, 1, 1, 1)
        points = points + centre.view(-1, 1, 1, 2)
        image = F.grid_sample(self.ground, points, padding_mode="reflection", align_corners=False)
        for ellipse in reversed(range(self.textures.shape[1])):
            angle = self.angles[:, frame, ellipse]
            turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], dim=1).view(-1, 2, 2)
            local = (points - self.centres[:, frame, ellipse].view(-1, 1, 1, 2)).flatten(1, 2) @ turn
            local = (local / self.axes[:, frame, ellipse].unsqueeze(1)).view_as(points)
            texture = F.grid_sample(self.textures[:, ellipse], local, align_corners=False)
            cover = (8 * (1 - local.norm(dim=3))).sigmoid().unsqueeze(1)
            image = torch.lerp(image, texture, cover)
        return (4 * (image - 0.5)).contiguous(memory_format=torch.channels_last)


def window_side(box: Tensor) -> Tensor:
    """Side of the square window around boxes ``[N, 4]``, which shows twice as much as the template."""
    width, height = box[:, 2:].unbind(dim=1)
    around = (width + height) / 2
    return 2 * ((width + around) * (height + around)).sqrt()


def random_pairs(count: int, generator: torch.Generator) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """Templates and windows from two moments of a video each, and the boxes in the windows, in parts of a side."""
    videos = Videos.random(20 * torch.rand(count, 2, generator=generator), generator)
    first, second = videos.boxes.unbind(dim=1)
    template = videos.view(0, first[:, :2], window_side(first) / 2, TEMPLATE)
    shift, zoom = torch.rand(count, 3, generator=generator).sub(0.5).split([2, 1], dim=1)
    side = window_side(second) * (0.6 * zoom[:, 0]).exp()
    centre = second[:, :2] + 0.6 * shift * side.unsqueeze(1)
    boxes = torch.cat([(second[:, :2] - centre) / side.unsqueeze(1) + 0.5, second[:, 2:] / side.unsqueeze(1)], dim=1)
    return (template, videos.view(1, centre, side, WINDOW)), boxes


def corners(boxes: Tensor) -> Tensor:
    """Corners of boxes given by centre and size."""
    centre, size = boxes.split(2, dim=-1)
    return torch.cat([centre - size / 2, centre + size / 2], dim=-1)


def overlap(one: Tensor, other: Tensor) -> Tensor:
    """Intersection over union of boxes given by corners ``[..., 4]``."""
    low, high = torch.maximum(one[..., :2], other[..., :2]), torch.minimum(one[..., 2:], other[..., 2:])
    common = (high - low).clamp_min(0).prod(dim=-1)
    areas = [(box[..., 2:] - box[..., :2]).prod(dim=-1) for box in (one, other)]
    return common / (areas[0] + areas[1] - common)
