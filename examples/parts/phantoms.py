"""Random patients for radiotherapy, the doses that they are planned to get, and distances of doses."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

SIDE = 16  # voxels
INPUTS = 5  # density, target, target around it, organ, body
BEAMS = 5


def random_phantoms(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Inputs ``[N, INPUTS, D, H, W]`` and doses ``[N, 1, D, H, W]`` of random patients."""
    line = (torch.arange(SIDE) + 0.5) / SIDE * 2 - 1
    grid = torch.stack(torch.meshgrid(line, line, line, indexing="ij"), dim=-1)

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, 1, 3, generator=generator)

    def ellipsoid(centre: Tensor, axes: Tensor) -> Tensor:
        return (((grid.view(1, -1, 3) - centre) / axes).square().sum(dim=2) < 1).float().view(count, 1, *grid.shape[:3])

    body = ellipsoid(uniform(-0.05, 0.05), uniform(0.75, 0.95) * torch.tensor([1.5, 1.0, 1.0]))
    density = body
    for value, low, high in ((0.3, 0.2, 0.4), (1.7, 0.1, 0.25)):  # lung, bone
        density = torch.where(ellipsoid(uniform(-0.6, 0.6), uniform(low, high)) > 0, value * body, density)
    centre, axes = uniform(-0.35, 0.35), uniform(0.2, 0.35)
    target = ellipsoid(centre, axes) * body
    around = (ellipsoid(centre + uniform(-0.1, 0.1), axes * uniform(1.3, 1.7)) * body - target).clamp_min(0)
    organ = ellipsoid(centre + uniform(0.3, 0.5) * uniform(-1, 1).sign(), uniform(0.2, 0.35))
    organ = organ * body * (1 - target) * (1 - around)
    inputs = torch.cat([density, target, around, organ, body], dim=1)
    return inputs.contiguous(memory_format=torch.channels_last_3d), planned_dose(inputs)


def planned_dose(inputs: Tensor) -> Tensor:
    """Sum of beams around the patient, each as wide as the targets, weakened by the density and where an organ lies."""
    total = torch.zeros_like(inputs[:, :1])
    for turn in range(BEAMS):
        angle = torch.tensor(2 * math.pi * turn / BEAMS)
        density, target, around, organ, _ = rotated(inputs, angle).split(1, dim=1)
        wanted = (target + 0.75 * around).amax(dim=3, keepdim=True)
        spared = organ.amax(dim=3, keepdim=True) * (1 - target.amax(dim=3, keepdim=True))
        beam = wanted * (1 - 0.7 * spared) * (-0.06 * 16 / SIDE * density.cumsum(dim=3)).exp()
        total = total + rotated(beam.expand_as(total).contiguous(), -angle)
    dose = F.avg_pool3d(total, 3, stride=1, padding=1) * inputs[:, -1:]
    target = inputs[:, 1:2]
    return dose * (target.sum(dim=(1, 2, 3, 4), keepdim=True) / (dose * target).sum(dim=(1, 2, 3, 4), keepdim=True))


def rotated(volumes: Tensor, angle: Tensor) -> Tensor:
    """Volumes turned about their first axis."""
    turn = torch.eye(3, 4)
    turn[:2, :2] = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()]).view(2, 2)
    places = F.affine_grid(turn.expand(len(volumes), 3, 4), list(volumes.shape), align_corners=False)
    return F.grid_sample(volumes, places, align_corners=False)


def masked_l1(one: Tensor, other: Tensor, inputs: Tensor) -> Tensor:
    """Mean distance of two doses in the body."""
    return ((one - other).abs() * inputs[:, -1:]).sum() / inputs[:, -1:].sum()


def relative_difference(one: Tensor, other: Tensor, inputs: Tensor) -> Tensor:
    """L1 distance of two doses relative to their mean, in the body."""
    zeros = torch.zeros_like(one)
    return 2 * masked_l1(one, other, inputs) / masked_l1(one + other, zeros, inputs).clamp_min(1e-3)
