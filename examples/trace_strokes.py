"""Recovers the path of a pen from the image of a line as TRACE does, through a banded dynamic-time-warping alignment.

A convolutional recurrent network gives a step of the pen for every two columns of the image; positions p_i are sums of
the steps. They are aligned with the pen's points t_j, and the loss is taken along the alignment, which is a constant:

    total[i, j] = |p_i - t_j| + min(total[i-1, j-1], total[i-1, j], total[i, j-1])                      `dtw_align`
    loss = sum of |p_i - t_j| over the path / number of points + cross-entropies of strokes' starts and the line's end

The network's convolutions mix K kernels by a code of each image. Of the stored strokes 30 % are reversed or exchanged;
once the network has learnt, each stroke is reversed or exchanged again if that costs less: the targets adapt.

    python examples/trace_strokes.py --out trace --seed 0

Archibald et al., "TRACE: A Differentiable Approach to Line-level Stroke Recovery for Offline Handwritten Text", ICDAR
2021, arXiv 2105.11559. docs/examples/trace_strokes.md has the results, and what differs from the paper.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import typer
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional as F

from dynamic_convolution import DynamicConv2d
from kshot_ext import functional as KF
from kshot_ext.nas.progress import ConsoleProgress
from kshot_ext.nas.randomness import named_generator, seeded_by
from kshot_ext.optim import KShotAdamW
from parts.common import NewFolder, Quick, new_folder, train, write_results
from parts.pictures import draw_strokes
from parts.strokes import ENDS, HEIGHT, Line, Targets, random_lines, spoilt

SHOTS, CHANNELS, HIDDEN = 4, (12, 24, 32, 48), 64
POOLS = ((2, 2), (2, 1), (2, 1), (4, 1))
BAND, FLAG_WEIGHT, START_WEIGHT = 12, 0.1, 5.0
SPOILT = 0.3  # of the stored strokes
TRAINED_WIDTHS, OTHER_WIDTHS = (64, 80, 96, 112, 128), (160,)
LEARNING_RATE = 2e-3


@dataclass(frozen=True)
class Scale:
    """How much is computed."""

    batch: int = 16
    lines: int = 1600
    test_lines: int = 160  # of each width
    steps: int = 700  # on the targets as stored
    more_steps: int = 400  # on those, or on targets that adapt


QUICK = Scale(4, lines=20, test_lines=4, steps=3, more_steps=2)


class Pen(nn.Module):
    """From images `[N, 1, HEIGHT, W]` to W / 2 positions of the pen, and logits of starts and of the end."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for come, go, pool in zip((1, *CHANNELS), CHANNELS, POOLS):
            convolution = DynamicConv2d(come, go, 3, padding=1, bias=False, num_shots=SHOTS, temperature=3.0)
            layers += [convolution, nn.BatchNorm2d(go), nn.SiLU(), nn.MaxPool2d(pool)]
        self.features = nn.Sequential(*layers)
        self.recurrent = nn.LSTM(CHANNELS[-1], HIDDEN, batch_first=True, bidirectional=True)
        self.head = nn.Conv1d(2 * HIDDEN, 4, 1)
        with torch.no_grad():  # at first the pen crosses the image
            self.head.weight.mul_(0.1)
            self.head.bias.copy_(torch.tensor([2 / HEIGHT, 0.0, 0.0, 0.0]))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        columns = self.features(images).squeeze(2).movedim(1, 2)
        steps = self.head(self.recurrent(columns)[0].movedim(1, 2))
        positions = steps[:, :2].movedim(1, 2).cumsum(dim=1) + torch.tensor([0.0, 0.5])
        return positions, steps[:, 2], steps[:, 3]


def trace_loss(outputs: tuple[Tensor, Tensor, Tensor], targets: Targets, band: int | None) -> Tensor:
    """Distances along the alignment, and cross-entropies of starts and ends at the predictions aligned with them.

    A band of 0 aligns by index: prediction i with the target at the same share of its sequence.
    """
    positions, starts, ends = outputs
    cost, path = KF.dtw_align(positions, targets.points, target_lengths=targets.lengths, band=band)
    i, j = path.clamp(min=0).unbind(-1)
    exists = path[..., 0] >= 0
    is_first = exists & (j != F.pad(j, (1, 0), value=-1)[:, :-1])
    of_start = is_first & targets.starts.gather(1, j)
    of_end = exists & (j >= (targets.lengths - ENDS)[:, None])
    flags = [torch.zeros_like(starts).scatter_reduce_(1, i, flag.float(), "amax") for flag in (of_start, of_end)]
    weight = torch.tensor(START_WEIGHT)
    of_flags = F.binary_cross_entropy_with_logits(starts, flags[0], pos_weight=weight)
    of_flags = of_flags + F.binary_cross_entropy_with_logits(ends, flags[1])
    return cost.sum() / targets.lengths.sum() + FLAG_WEIGHT * of_flags


def adapted(positions: Tensor, lines: list[Line], generator: torch.Generator) -> list[Line]:
    """Each line with one stroke, drawn by its cost, reversed or exchanged with a neighbour, if that costs less."""
    targets = Targets.of(lines)
    path = KF.dtw_align(positions, targets.points, target_lengths=targets.lengths, band=BAND).path
    i, j = path.clamp(min=0).unbind(-1)
    met = positions.gather(1, i[..., None].expand(-1, -1, 2)), targets.points.gather(1, j[..., None].expand(-1, -1, 2))
    distances = torch.where(path[..., 0] >= 0, (met[0] - met[1]).abs().sum(-1), 0)
    strokes = max(len(line.order) for line in lines)
    costs = torch.zeros(len(lines), strokes).scatter_add_(1, targets.places.gather(1, j), distances)
    exists = torch.arange(strokes) < torch.tensor([[len(line.order)] for line in lines])
    drawn = torch.multinomial(costs.masked_fill(~exists, -torch.inf).softmax(1), 1, generator=generator)[:, 0].tolist()
    versions = [
        [line, line.flipped(place), line.swapped(max(place - 1, 0)), line.swapped(place)]
        for line, place in zip(lines, drawn)
    ]
    every = Targets.of([version for of_line in versions for version in of_line])
    repeated = positions.repeat_interleave(4, dim=0)
    costs = KF.dtw_align(repeated, every.points, target_lengths=every.lengths, band=BAND).cost.view(-1, 4)
    return [of_line[best] for of_line, best in zip(versions, costs.argmin(1).tolist())]


class Data:
    """Lines of several widths; a batch has one width."""

    def __init__(self, count: int, generator: torch.Generator) -> None:
        groups = [random_lines(count // len(TRAINED_WIDTHS), width, generator) for width in TRAINED_WIDTHS]
        self.images = [images for images, _ in groups]
        self.lines = [spoilt(lines, SPOILT, generator) for _, lines in groups]

    def batch(self, size: int, generator: torch.Generator) -> tuple[int, Tensor]:
        """A group, and places in it."""
        group = int(torch.randint(len(self.images), (1,), generator=generator))
        return group, torch.randint(len(self.images[group]), (size,), generator=generator)

    def right_share(self) -> float:
        """Of the stored strokes, how many are as they were written."""
        shares = [line.right_share() for lines in self.lines for line in lines]
        return sum(shares) / len(shares)


def losses(
    network: Pen, data: Data, band: int | None, scale: Scale, generator: torch.Generator, *, adaptive: bool = False
) -> Callable[[], Tensor]:
    """The losses of training steps."""

    def loss() -> Tensor:
        group, places = data.batch(scale.batch, generator)
        outputs = network(data.images[group][places])
        lines = [data.lines[group][place] for place in places.tolist()]
        if adaptive:
            lines = adapted(outputs[0].detach(), lines, generator)
            for place, line in zip(places.tolist(), lines):
                data.lines[group][place] = line
        return trace_loss(outputs, Targets.of(lines), band)

    return loss


@torch.no_grad()
def stored_cost(network: Pen, data: Data) -> float:
    """Distance per point to the targets as they are stored, aligned, in line heights."""
    network.eval()
    costs = []
    for images, lines in zip(data.images, data.lines):
        targets = Targets.of(lines[:64])
        cost = KF.dtw_align(network(images[:64])[0], targets.points, None, targets.lengths, band=BAND).cost
        costs.append(cost.sum() / targets.lengths.sum())
    network.train()
    return float(torch.stack(costs).mean())


@torch.no_grad()
def predicted(network: Pen, images: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Of each line the positions up to the end, at least two, and where strokes start."""
    network.eval()
    positions, starts, ends = network(images)
    network.train()
    found = []
    for row in range(len(images)):
        stop = torch.nonzero(ends[row] > 0)[:, 0]
        count = max(int(stop[0]) + 1 if len(stop) else len(ends[row]), 2)
        found.append((positions[row, :count], starts[row, :count] > 0))
    return found


def errors(network: Pen, images: Tensor, lines: list[Line]) -> dict[str, float]:
    """Distances per point, in line heights: aligned, of as many points as the targets have, and of nearest points."""
    targets = Targets.of(lines, ends=0)
    resampled, nearest, counts = torch.zeros_like(targets.points), 0.0, 0.0
    for row, (positions, starts) in enumerate(predicted(network, images)):
        length = int(targets.lengths[row])
        points = F.interpolate(positions.T[None], length, mode="linear", align_corners=True)[0].T
        resampled[row, :length] = points
        distances = torch.cdist(positions, targets.points[row, :length])
        nearest += float(distances.min(0).values.mean() + distances.min(1).values.mean()) / 2
        counts += abs(int(starts.sum()) - len(lines[row].order))
    cost = KF.dtw_align(resampled, targets.points, targets.lengths, targets.lengths, norm=2).cost
    return {
        "aligned": float((cost / targets.lengths).mean()),
        "nearest": nearest / len(lines),
        "strokes_too_many_or_few": counts / len(lines),
    }


def main(
    out: NewFolder = Path("trace_strokes_run"),
    seed: int = 0,
    quick: Quick = False,
) -> None:
    """Trains three arms on lines some of whose strokes are stored wrongly; writes metrics.json and picture.png."""
    new_folder(out)
    start = time.perf_counter()
    scale = QUICK if quick else Scale()
    data = Data(scale.lines, named_generator(seed, "lines"))
    adapting = copy.deepcopy(data)
    shares = {"as stored": data.right_share()}
    with ConsoleProgress(Console()) as bar, seeded_by(named_generator(seed, "network")):

        def go_on(network: Pen, steps: int, rate: float, title: str, **how) -> Pen:
            generator = named_generator(seed, f"{steps} steps")  # the same batches for all
            optimizer = KShotAdamW(network.parameters(), lr=rate, weight_decay=1e-4)
            how = {"data": data, "band": BAND, **how}
            train(optimizer, steps, losses(network, scale=scale, generator=generator, **how), bar, title)
            return network

        first = Pen()
        by_index = go_on(copy.deepcopy(first), scale.steps, LEARNING_RATE, "index-matched", band=0)
        by_index = go_on(by_index, scale.more_steps, LEARNING_RATE / 4, "index-matched, more", band=0)
        common = go_on(first, scale.steps, LEARNING_RATE, "aligned")
        networks = {"index-matched": by_index}
        for title, how in {"aligned": {}, "adaptive": {"data": adapting, "adaptive": True}}.items():
            network = go_on(copy.deepcopy(common), scale.more_steps, LEARNING_RATE / 4, f"{title}, more", **how)
            networks[title] = network
    shares["adapted"] = adapting.right_share()
    costs = {title: stored_cost(network, data) for title, network in networks.items()}
    costs["adaptive"] = stored_cost(networks["adaptive"], adapting)
    generator = named_generator(seed, "test")
    tests = {width: random_lines(scale.test_lines, width, generator) for width in (TRAINED_WIDTHS[-1], *OTHER_WIDTHS)}
    found = {
        title: {str(w): errors(network, *test) for w, test in tests.items()} for title, network in networks.items()
    }
    metrics = {
        "seed": seed,
        "quick": quick,
        "errors": found,
        "right_strokes": shares,
        "cost_of_stored_targets": costs,
        "seconds": time.perf_counter() - start,
    }
    images, lines = tests[OTHER_WIDTHS[0]]
    paths = {title: predicted(network, images[:1])[0] for title, network in networks.items()}
    write_results(out, metrics, draw_strokes(images[0, 0], lines[0].strokes, paths))


if __name__ == "__main__":
    typer.run(main)
