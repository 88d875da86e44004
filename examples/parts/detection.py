"""Boxes of detectors: features inside them, corrections, suppression, and how well they fit the true ones."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from parts.videos import overlap

BINS = 5  # places along a side at which features are read
_UNITS = torch.tensor([0.1, 0.1, 0.2, 0.2])  # of corrections


def overlaps(boxes: Tensor, others: Tensor) -> Tensor:
    """Intersection over union of boxes ``[..., P, 4]``, each with each of others ``[..., G, 4]``: ``[..., P, G]``."""
    return overlap(boxes.unsqueeze(-2), others.unsqueeze(-3))


def read_boxes(maps: Tensor, boxes: Tensor) -> Tensor:
    """Features ``[N, P, C * BINS * BINS]`` of maps ``[N, C, H, W]`` inside boxes ``[N, P, 4]`` in parts of a side."""
    line = (torch.arange(BINS) + 0.5) / BINS
    grid = torch.stack(torch.meshgrid(line, line, indexing="xy"), dim=2).view(-1, 2)
    low, high = boxes.unsqueeze(2).split(2, dim=3)
    places = 2 * torch.lerp(low, high, grid) - 1
    return F.grid_sample(maps, places, align_corners=False).movedim(1, 2).flatten(2)


def corrections(boxes: Tensor, truth: Tensor) -> Tensor:
    """By what boxes ``[..., 4]`` become the true ones: shifts in parts of their sides, and logarithms of factors."""
    size, true_size = (box[..., 2:] - box[..., :2] for box in (boxes, truth))
    shift = (truth[..., :2] + truth[..., 2:] - boxes[..., :2] - boxes[..., 2:]) / 2 / size
    return torch.cat([shift, (true_size / size).log()], dim=-1) / _UNITS


def corrected(boxes: Tensor, correction: Tensor) -> Tensor:
    """Boxes after corrections, cut at the image's border, and no side less than a fiftieth of it."""
    shift, stretch = (correction * _UNITS).split(2, dim=-1)
    size = boxes[..., 2:] - boxes[..., :2]
    centre = (boxes[..., :2] + boxes[..., 2:]) / 2 + shift * size
    half = (size * stretch.clamp(-1, 1).exp() / 2).clamp_min(0.01)
    low = (centre - half).clamp(0, 0.98)
    return torch.cat([low, torch.maximum((centre + half).clamp(0, 1), low + 0.02)], dim=-1)


def without_doubles(boxes: Tensor, scores: Tensor, limit: float = 0.5) -> Tensor:
    """Scores ``[..., P]``, 0 where a box ``[..., P, 4]`` overlaps one of a higher score by more than a limit."""
    order = scores.argsort(dim=-1, descending=True, stable=True)
    boxes = boxes.gather(-2, order.unsqueeze(-1).expand(*order.shape, 4))
    alike = (overlaps(boxes, boxes) > limit).triu(1)
    kept = torch.ones_like(scores, dtype=torch.bool)
    for place in range(scores.shape[-1]):
        kept &= ~(kept[..., place : place + 1] & alike[..., place, :])
    return scores * torch.zeros_like(kept).scatter(-1, order, kept)


def hits(boxes: Tensor, scores: Tensor, truth: Tensor, present: Tensor, limit: float = 0.5) -> Tensor:
    """Which boxes have found an object; each object is found once, by the highest score.

    Args:
        boxes, scores: ``[..., P, 4]`` and ``[..., P]``; a box of score 0 finds nothing.
        truth, present: ``[..., G, 4]`` and whether there is such an object, ``[..., G]``.
    """
    fit = overlaps(boxes, truth) * present.unsqueeze(-2)
    free, found = present.clone(), torch.zeros_like(scores, dtype=torch.bool)
    for rank in scores.argsort(dim=-1, descending=True, stable=True).unbind(-1):
        rank = rank.unsqueeze(-1)
        own = fit.gather(-2, rank.unsqueeze(-1).expand(*rank.shape, fit.shape[-1])).squeeze(-2) * free
        best, which = own.max(dim=-1, keepdim=True)
        hit = (best >= limit) & (scores.gather(-1, rank) > 0)
        found.scatter_(-1, rank, hit)
        free &= ~torch.zeros_like(free).scatter(-1, which, hit)
    return found


def average_precision(scores: Tensor, found: Tensor, objects: int) -> float:
    """Area under precision over recall, where precision is the highest at that recall or a later one."""
    order = scores.flatten().argsort(descending=True, stable=True)
    hit = found.flatten()[order].double()
    precision = hit.cumsum(0) / torch.arange(1, len(hit) + 1)
    highest = precision.flip(0).cummax(0).values.flip(0)
    return float((highest * hit).sum() / objects)
