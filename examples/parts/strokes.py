"""Lines of pen strokes: rendered images, the points of the pen, and points that were stored in a wrong order."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

HEIGHT = 32  # pixels, one line height: the unit of all coordinates
SPACING = 0.15  # between the points of a stroke
ADVANCE = 0.6  # from one stroke to the next
ENDS = 4  # how often the last point is repeated
_DENSE = 64  # points of a stroke that is rendered


def _arc(start: float, end: float) -> Tensor:
    angle = torch.linspace(start, end, _DENSE) * math.pi
    return 0.5 * torch.stack([angle.cos(), angle.sin()], dim=1)


def _polyline(*corners: tuple[float, float]) -> Tensor:
    return resampled(torch.tensor(corners), _DENSE)


def resampled(points: Tensor, count: int) -> Tensor:
    """So many points `[count, 2]` at equal distances along a line `[M, 2]`."""
    lengths = (points[1:] - points[:-1]).norm(dim=1).cumsum(0)
    along = torch.cat([lengths.new_zeros(1), lengths])
    wanted = torch.linspace(0, float(along[-1]), count)
    after = torch.searchsorted(along, wanted).clamp(1, len(points) - 1)
    share = (wanted - along[after - 1]) / (along[after] - along[after - 1]).clamp_min(1e-9)
    return torch.lerp(points[after - 1], points[after], share.clamp(0, 1)[:, None])


def _alphabet() -> Tensor:
    """Strokes in the direction of the pen `[9, M, 2]`: x to the right, y down, from -0.5 to 0.5."""
    x = torch.linspace(-0.5, 0.5, _DENSE)
    return torch.stack(
        [
            _polyline((0.0, -0.5), (0.0, 0.5)),  # a bar, downwards
            _polyline((-0.5, 0.0), (0.5, 0.0)),  # a dash, to the right
            _polyline((0.5, -0.5), (-0.5, 0.5)),  # a slash, downwards
            _polyline((-0.5, -0.5), (0.0, 0.5), (0.5, -0.5)),  # v
            _polyline((-0.5, -0.5), (0.5, -0.5), (-0.5, 0.5), (0.5, 0.5)),  # z
            _polyline((-0.5, -0.5), (-0.5, 0.5), (0.5, 0.5)),  # l
            _arc(-0.25, -1.75),  # c, from its upper end
            _arc(-1.0, 0.0),  # a hump, to the right
            torch.stack([x, -0.5 * (2 * math.pi * x).sin()], dim=1),  # a wave, to the right
        ]
    )


ALPHABET = _alphabet()


@dataclass
class Line:
    """What is stored of a line.

    Args:
        strokes: points `[M, 2]` of each, as they were written.
        order: the strokes in the order in which they are stored.
        backwards: which of them are stored from their end on.
    """

    strokes: list[Tensor]
    order: list[int] = field(default_factory=list)
    backwards: list[bool] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.order = self.order or list(range(len(self.strokes)))
        self.backwards = self.backwards or [False] * len(self.strokes)

    def flipped(self, place: int) -> Line:
        """With the stroke at a place of the order the other way round."""
        turned = list(self.backwards)
        turned[self.order[place]] = not turned[self.order[place]]
        return Line(self.strokes, self.order, turned)

    def swapped(self, place: int) -> Line:
        """With the strokes at a place and behind it exchanged, if there are two."""
        order = list(self.order)
        order[place : place + 2] = order[place : place + 2][::-1]
        return Line(self.strokes, order, self.backwards)

    def right_share(self) -> float:
        """The share of strokes that lie where they were written, in the direction in which they were."""
        right = [stroke == place and not self.backwards[stroke] for place, stroke in enumerate(self.order)]
        return sum(right) / len(right)

    def points(self) -> tuple[Tensor, Tensor]:
        """All points as stored `[M, 2]`, and the place of each one's stroke."""
        parts = [self.strokes[s].flip(0) if self.backwards[s] else self.strokes[s] for s in self.order]
        places = [torch.full((len(part),), place) for place, part in enumerate(parts)]
        return torch.cat(parts), torch.cat(places)


@dataclass
class Targets:
    """Lines as sequences of one length, the last point repeated.

    Args:
        points: `[N, T, 2]`.
        places: which stroke of its line a point belongs to, `[N, T]`.
        starts: where strokes start, `[N, T]`.
        lengths: how many points count, those repeated included, `[N]`.
    """

    points: Tensor
    places: Tensor
    starts: Tensor
    lengths: Tensor

    @classmethod
    def of(cls, lines: list[Line], ends: int = ENDS) -> Targets:
        points, places = zip(*(line.points() for line in lines))
        long = [torch.cat([p, p[-1:].expand(ends, 2)]) for p in points]
        of_stroke = [torch.cat([p, p[-1:].expand(ends)]) for p in places]
        starts = [torch.cat([p.new_ones(1), p[1:] - p[:-1]]) > 0 for p in of_stroke]
        lengths = torch.tensor([len(p) for p in long])
        return cls(*(pad_sequence(list(part), batch_first=True) for part in (long, of_stroke, starts)), lengths)


def random_lines(count: int, width: int, generator: torch.Generator) -> tuple[Tensor, list[Line]]:
    """Images `[N, 1, HEIGHT, width]` of lines, and their strokes."""
    strokes = int((width / HEIGHT - 0.2) / ADVANCE)

    def uniform(low: float, high: float, *size: int) -> Tensor:
        return low + (high - low) * torch.rand(count, *size, generator=generator)

    letters = ALPHABET[torch.randint(len(ALPHABET), (count, strokes), generator=generator)]
    size = torch.stack([uniform(0.55, 0.8, strokes) * ADVANCE, uniform(0.45, 0.75, strokes)], dim=-1)
    middle = width / HEIGHT / 2 + ADVANCE * (torch.arange(strokes) - (strokes - 1) / 2)
    centres = torch.stack([middle + uniform(-0.06, 0.06, strokes), uniform(0.42, 0.58, strokes)], dim=-1)
    letters = letters * size[:, :, None]
    letters[..., 0] -= uniform(-0.25, 0.25, 1, 1) * letters[..., 1]
    letters = letters + centres[:, :, None]
    images = rendered(letters.flatten(1, 2), width, uniform(0.8, 1.6, 1, 1, 1))
    images = images + 0.1 * torch.randn(images.shape, generator=generator)
    lines = []
    for line in letters:
        lengths = (line[:, 1:] - line[:, :-1]).norm(dim=2).sum(1)
        counts = (lengths / SPACING).round().long().clamp_min(2) + 1
        lines.append(Line([resampled(stroke, int(n)) for stroke, n in zip(line, counts)]))
    return images, lines


def rendered(points: Tensor, width: int, contrast: Tensor) -> Tensor:
    """Ink along points `[N, M, 2]`, as images of zeros and, where there is ink, about one."""
    x, y = (points * HEIGHT - 0.5).unbind(-1)
    ink = torch.zeros(len(points), HEIGHT * width)
    for right in (0, 1):  # each point lies between four pixels
        for below in (0, 1):
            column, row = x.floor() + right, y.floor() + below
            share = (1 - (x - column).abs()) * (1 - (y - row).abs())
            place = row.clamp(0, HEIGHT - 1) * width + column.clamp(0, width - 1)
            ink.scatter_add_(1, place.long(), share)
    images = F.avg_pool2d(ink.view(-1, 1, HEIGHT, width), 3, stride=1, padding=1)
    return (contrast * 3 * images).clamp_max(1)


def spoilt(lines: list[Line], share: float, generator: torch.Generator) -> list[Line]:
    """Lines of whose strokes so many are stored backwards or exchanged with the next one."""
    stored = []
    for line in lines:
        chances = torch.rand(len(line.order), 2, generator=generator)
        for place, (chance, kind) in enumerate(chances.tolist()):
            if chance < share:
                line = line.flipped(place) if kind < 0.5 else line.swapped(place)
        stored.append(line)
    return stored
