"""Rendered scenes with objects of twelve classes, and words for the classes, of which training knows nine."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from parts.detection import corrected
from parts.shapes import OUTLINES, TEXTURES, boxes_of, paint, random_grounds

SIDE, OBJECTS, CLUTTER = 64, 3, 2  # pixels; most objects of a scene, and things of no class
KINDS = (1, 9, 12)  # outlines of classes: a triangle, a flower and a star
COLOURS = torch.tensor([[0.9, 0.3, 0.2], [0.2, 0.4, 0.9]])
PATTERNS = (0, 2)  # textures of classes: stripes and rings
ATTRIBUTES = (len(KINDS), len(COLOURS), len(PATTERNS))
CLASSES = torch.cartesian_prod(*map(torch.arange, ATTRIBUTES))
WORD, VOCABULARY = 32, 48  # entries of a word; words


@dataclass(frozen=True, eq=False)
class Scenes:
    """Pictures of objects and clutter.

    Args:
        images: ``[N, 3, SIDE, SIDE]``.
        boxes: of the objects, corners in parts of a side, ``[N, OBJECTS, 4]``.
        labels: rows of `CLASSES`, -1 for no object, ``[N, OBJECTS]``.
        proposals: boxes in which to look, ``[N, P, 4]``: around objects, and anywhere.
    """

    images: Tensor
    boxes: Tensor
    labels: Tensor
    proposals: Tensor

    @classmethod
    def random(cls, count: int, classes: Sequence[int], generator: torch.Generator) -> Scenes:
        """Scenes of 1 to 3 objects, each of one of some classes."""

        def uniform(*shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
            return low + (high - low) * torch.rand(count, *shape, generator=generator)

        def among(choices: Tensor, things: int) -> Tensor:
            return choices[torch.randint(len(choices), (count, things), generator=generator)]

        things = OBJECTS + CLUTTER
        labels = among(torch.tensor(classes), OBJECTS)
        number = torch.randint(1, OBJECTS + 1, (count, 1), generator=generator)
        labels[torch.arange(OBJECTS) >= number] = -1
        kinds, colours, patterns = CLASSES[labels].unbind(2)
        others = torch.tensor([row for row in range(len(OUTLINES)) if row not in KINDS])
        plain = torch.tensor([row for row in range(len(TEXTURES)) if row not in PATTERNS])
        shapes = torch.cat([torch.tensor(KINDS)[kinds], among(others, CLUTTER)], dim=1)
        textures = torch.cat([torch.tensor(PATTERNS)[patterns], among(plain, CLUTTER)], dim=1)
        bright = torch.cat([COLOURS[colours], uniform(CLUTTER, 3)], dim=1) + uniform(things, 3, low=-0.1, high=0.1)
        cells = uniform(9).argsort(dim=1)[:, :things]  # of a grid of 3x3, so that little is covered
        centres = 0.62 * (torch.stack([cells % 3, cells // 3], dim=2) - 1) + uniform(things, 2, low=-0.12, high=0.12)
        places = torch.cat([centres, uniform(things, 1, low=0.22, high=0.34)], dim=2)
        places[:, :OBJECTS, 2] *= labels >= 0
        turns = uniform(things, low=-math.pi, high=math.pi)
        images = random_grounds(count, SIDE, generator)
        for thing in range(things):
            pair = torch.stack([bright[:, thing], 0.3 * bright[:, thing]], dim=1)
            images = paint(images, shapes[:, thing], textures[:, thing], pair, places[:, thing], turns[:, thing])
        images = images + 0.05 * torch.randn(images.shape, generator=generator)
        rows = [part[:, :OBJECTS].flatten(0, 1) for part in (shapes, places, turns)]
        boxes = boxes_of(*rows).view(count, OBJECTS, 4).clamp(0, 1)

        centre, half = (uniform(2 * OBJECTS + 8, 2, low=0.1, high=high) for high in (0.9, 0.22))
        anywhere = torch.cat([centre - half, centre + half], dim=2)
        truth = torch.where((labels >= 0).unsqueeze(2), boxes, anywhere[:, :OBJECTS]).repeat(1, 4, 1)
        around = corrected(truth, torch.randn(truth.shape, generator=generator))
        return cls(4 * (images - 0.5), boxes, labels, torch.cat([around, anywhere[:, OBJECTS:].clamp(0, 1)], dim=1))

    def part(self, rows: Tensor | slice) -> Scenes:
        return Scenes(self.images[rows], self.boxes[rows], self.labels[rows], self.proposals[rows])


def attribute_rows(classes: Tensor) -> Tensor:
    """Shape, colour and texture of classes, each as a row of zeros and ones side by side."""
    return torch.cat([F.one_hot(part, size) for part, size in zip(classes.unbind(1), ATTRIBUTES)], dim=1).float()


@dataclass(frozen=True, eq=False)
class Words:
    """Word vectors, which follow from attributes: of classes ``[WORD, 12]`` and of a vocabulary ``[WORD, VOCABULARY]``.

    Args:
        classes, vocabulary: columns are words.
        seen, unseen: rows of `CLASSES`; of each shape one is unseen, so each attribute is seen.
    """

    classes: Tensor
    vocabulary: Tensor
    seen: list[int]
    unseen: list[int]

    @classmethod
    def random(cls, generator: torch.Generator) -> Words:
        to_words = torch.randn(sum(ATTRIBUTES), WORD, generator=generator)
        others = (torch.rand(VOCABULARY - len(CLASSES), sum(ATTRIBUTES), generator=generator) < 0.4).float()
        words = torch.cat([attribute_rows(CLASSES), others]) @ to_words
        words = F.normalize(words + 0.2 * torch.randn(words.shape, generator=generator), dim=1).T.contiguous()
        each = len(CLASSES) // len(KINDS)
        picks = torch.randint(each, (len(KINDS),), generator=generator) + each * torch.arange(len(KINDS))
        unseen = picks.tolist()
        return cls(words[:, : len(CLASSES)], words, [row for row in range(len(CLASSES)) if row not in unseen], unseen)

    @property
    def mean(self) -> Tensor:
        """The mean of the seen words, ``[WORD]``."""
        return self.classes[:, self.seen].mean(dim=1)

    def table(self, background: Tensor, classes: Sequence[int]) -> Tensor:
        """V: the background's column, then those of classes, ``[WORD, 1 + len(classes)]``."""
        return torch.cat([background.unsqueeze(1), self.classes[:, classes]], dim=1)


def columns_of(labels: Tensor, classes: Sequence[int]) -> Tensor:
    """Where a label stands in a table of those classes: 0 for no object, and for a class that the table lacks."""
    columns = torch.zeros(len(CLASSES) + 1, dtype=torch.long)
    columns[list(classes)] = torch.arange(1, len(classes) + 1)
    return columns[labels]  # the label -1 reads the last one, which no class has
