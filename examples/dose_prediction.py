"""Predicts radiotherapy dose in 3D as LE-NAS does: diverse networks are searched, joined, and distilled into one.

From density, targets and organs x a network f gives the dose of each voxel; M are the voxels of the body:

    L1_M(f, y) = sum_M |f(x) - y| / sum M                                                     every network
    + 10 sum_r max(0, 0.2 - 2 sum_M |f - r| / sum_M (f + r)),  r the networks found before     the search of one
    L1_M(s, mean_n f_n) + a mean_i |F_i(s) - mean_n F_i(f_n)|^2 + b mean_i BCE(D_i(F_i(s)), real)        the student s

A supernet mixes operations by softmax weights, which learn on held-out volumes. K copies of the rest (`kshot_conv3d`)
serve all searches, each under a code that leans on a copy of its own. F_i are features, D_i discriminators of them.

    python examples/dose_prediction.py --out dose --seed 0

Lin et al., "LE-NAS: Learning-based Ensemble with Neural Architecture Search for Dose Prediction", arXiv 2106.06733.
docs/examples/dose_prediction.md has the results, and what differs from the paper.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional as F

from kshot_ext.nas.networks.supernet import Supernet
from kshot_ext.nas.progress import ConsoleProgress
from kshot_ext.nas.randomness import named_generator, seeded_by
from kshot_ext.nas.spaces.architecture import Architecture
from kshot_ext.nas.spaces.blocks import Zero
from kshot_ext.nas.spaces.space import NetworkShape, SearchSpace
from parts.common import NewFolder, Quick, milliseconds, nesterov_sgd, new_folder, train, write_results
from parts.phantoms import INPUTS, SIDE, masked_l1, random_phantoms, relative_difference
from parts.pictures import draw_doses

SIZES = (8, 16, 32)  # channels of each level
DEPTH, TEACHERS = len(SIZES) - 1, 3  # as many teachers as shots
SEARCH_RATE, CHOICE_RATE, TRAINING_RATE = 0.05, 0.05, 3e-3
GRAY = 70.0  # of a dose of 1, which the target is to get
LEAST_DIFFERENCE, DIVERSITY_WEIGHT = 0.2, 10.0
FEATURE_WEIGHT, ADVERSARIAL_WEIGHT = 0.005, 0.001  # at first; they fall to zero


@dataclass(frozen=True)
class Scale:
    """How much is computed."""

    batch: int = 4
    train: int = 12  # phantoms
    unplanned: int = 320  # whose dose only the ensemble knows
    validation: int = 12
    test: int = 60
    search_steps: int = 40
    steps: int = 300  # of each network that is trained anew; a student takes twice as many


QUICK = Scale(batch=2, train=4, unplanned=4, validation=2, test=2, search_steps=2, steps=3)


def conv(come: int, go: int, kernel_size: int = 3, *, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    """Convolution, group norm and ReLU."""
    layer = nn.Conv3d(come, go, kernel_size, stride, dilation * (kernel_size // 2), dilation, bias=False)
    return nn.Sequential(layer, nn.GroupNorm(go // 4, go), nn.ReLU())


OPERATIONS: dict[str, Callable[[int, int], nn.Module]] = {
    "identity": lambda c, _: nn.Identity(),
    "none": lambda c, _: Zero(),
    "conv 1": lambda c, _: conv(c, c, 1),
    "conv 3": lambda c, _: conv(c, c),
    "dilated 3": lambda c, _: conv(c, c, dilation=2),
    "separable 3": lambda c, _: nn.Sequential(nn.Conv3d(c, c, 3, padding=1, groups=c, bias=False), conv(c, c, 1)),
    "average pool": lambda c, out: nn.Sequential(nn.AvgPool3d(2), conv(c, out, 1)),
    "max pool": lambda c, out: nn.Sequential(nn.MaxPool3d(2), conv(c, out, 1)),
    "strided conv": lambda c, out: conv(c, out, stride=2),
    "linear": lambda c, out: nn.Sequential(conv(c, out, 1), nn.Upsample(scale_factor=2, mode="trilinear")),
    "nearest": lambda c, out: nn.Sequential(nn.Upsample(scale_factor=2), conv(c, out)),
}
SERIAL = ("identity", "conv 1", "conv 3", "dilated 3", "separable 3")
CONNECTION = ("none", "identity")
DOWN_CELL = (SERIAL, SERIAL, CONNECTION, ("average pool", "max pool", "strided conv"))
UP_CELL = (("linear", "nearest"), SERIAL, SERIAL, CONNECTION)


class DoseNetwork(nn.Module):
    """U-net of searched cells, which work in series, with the cell's input added at the end or not."""

    def __init__(self, stem: nn.Module, layers: Sequence[nn.Module], head: nn.Module) -> None:
        super().__init__()
        self.stem, self.head, self.layers = stem, head, nn.ModuleList(layers)

    def forward(self, inputs: Tensor) -> list[Tensor]:
        """The features of each cell, from the first down to the last up, then the dose ``[N, 1, D, H, W]``."""
        cells = [self.layers[start : start + 4] for start in range(0, len(self.layers), 4)]
        values, skipped, features = self.stem(inputs), [], []
        for first, second, connection, step in cells[:DEPTH]:
            skipped.append(second(first(values)) + connection(values))
            values = step(skipped[-1])
            features.append(values)
        for step, first, second, connection in cells[DEPTH:]:
            values = step(values) + skipped.pop()
            values = second(first(values)) + connection(values)
            features.append(values)
        return [*features, self.head(values) * inputs[:, -1:]]


class DoseSpace(SearchSpace):
    """Down cells, which are alike, and up cells, which are alike."""

    def __init__(self) -> None:
        operations = (*DOWN_CELL * DEPTH, *UP_CELL * DEPTH)
        shape = (INPUTS, *[SIDE] * 3)
        super().__init__("dose", image_shape=shape, num_classes=2, operations=operations)  # the head knows no classes

    def network_shape(self, ratios: Sequence[float]) -> NetworkShape:
        levels = list(itertools.pairwise(SIZES))
        down = [shape for c, below in levels for shape in [(c, c)] * 3 + [(c, below)]]
        up = [shape for c, below in levels[::-1] for shape in [(below, c)] + [(c, c)] * 3]
        return NetworkShape(stem=SIZES[0], layers=(*down, *up), head=SIZES[0])

    def stem(self, shape: int) -> nn.Module:
        return conv(INPUTS, shape)

    def candidate(self, operation: str, shape: tuple[int, int]) -> nn.Module:
        return OPERATIONS[operation](*shape)

    def head(self, shape: int) -> nn.Module:
        return nn.Conv3d(shape, 1, 1)

    def assemble(self, stem: nn.Module, layers: Sequence[nn.Module], head: nn.Module) -> DoseNetwork:
        return DoseNetwork(stem, layers, head)

    def of_cells(self, rows: list[Tensor]) -> list[Tensor]:
        """For each layer its row, of those of a down cell and of an up cell."""
        return rows[: len(DOWN_CELL)] * DEPTH + rows[len(DOWN_CELL) :] * DEPTH


class Trainer:
    """What all trainings of a run share: the phantoms, the scale and the bar."""

    def __init__(self, scale: Scale, seed: int, bar: ConsoleProgress) -> None:
        self.scale, self.seed, self.bar = scale, seed, bar
        parts = ("train", "unplanned", "validation", "test")
        self.data = {part: random_phantoms(getattr(scale, part), named_generator(seed, part)) for part in parts}

    def batches(self, part: str, purpose: str) -> Callable[[], tuple[Tensor, Tensor]]:
        """Draws a random batch of a part at each call."""
        (inputs, doses), generator = self.data[part], named_generator(self.seed, f"batches of {purpose}")

        def draw() -> tuple[Tensor, Tensor]:
            chosen = torch.randint(len(inputs), (self.scale.batch,), generator=generator)
            return inputs[chosen], doses[chosen]

        return draw

    def search(
        self, space: DoseSpace, supernet: Supernet, code: Tensor, found: Sequence[nn.Module], weight: float
    ) -> Architecture:
        """One network: operations' weights learn on validation phantoms, the supernet's on training ones, in turn."""
        logits = [torch.zeros(len(names), requires_grad=True) for names in (*DOWN_CELL, *UP_CELL)]
        chooser = torch.optim.Adam(logits, lr=CHOICE_RATE, betas=(0.5, 0.999))
        drawn = {part: self.batches(part, f"search {len(found)}") for part in ("train", "validation")}

        def loss(part: str) -> Tensor:
            inputs, doses = drawn[part]()
            mixture = space.of_cells([row.softmax(dim=0) for row in logits])
            with supernet.coded_mixture(mixture, code) as network:
                dose = network(inputs)[-1]
            with torch.no_grad():
                others = [reference(inputs)[-1] for reference in found]
            near = sum((LEAST_DIFFERENCE - relative_difference(dose, other, inputs)).clamp_min(0) for other in others)
            return masked_l1(dose, doses, inputs) + weight * near

        def step() -> Tensor:
            for row, gradient in zip(logits, torch.autograd.grad(loss("validation"), logits)):
                row.grad = gradient
            chooser.step()
            return loss("train")

        optimizer = nesterov_sgd(supernet, SEARCH_RATE, shots=TEACHERS)
        train(optimizer, self.scale.search_steps, step, self.bar, f"search {len(found) + 1}")
        return Architecture(tuple(int(row.argmax()) for row in space.of_cells(logits)))

    def teach(self, network: nn.Module, title: str, steps: int, loss: Distillation | None = None) -> nn.Module:
        """Trains a network by the true doses, or by other networks."""
        draw = self.batches("unplanned" if loss else "train", "training")

        def step() -> Tensor:
            inputs, doses = draw()
            outputs = network(inputs)
            return loss(inputs, outputs) if loss else masked_l1(outputs[-1], doses, inputs)

        train(torch.optim.Adam(network.parameters(), lr=TRAINING_RATE), steps, step, self.bar, title)
        return network.eval()


def discriminator(channels: int) -> nn.Sequential:
    """Pooled features to the logit of being a teacher's."""
    layers = [layer for size in (8 * channels, 16) for layer in (nn.Linear(size, 16), nn.LeakyReLU(0.2))]
    return nn.Sequential(nn.AdaptiveAvgPool3d(2), nn.Flatten(), *layers, nn.Linear(16, 1))


class Distillation:
    """The student's loss, which knows no true dose. In each step the discriminators learn first, by their own rule."""

    def __init__(self, teachers: Sequence[nn.Module], steps: int, generator: torch.Generator) -> None:
        self.teachers, self.shares = teachers, iter(torch.linspace(1, 0, steps).tolist())
        with seeded_by(generator):
            self.discriminators = nn.ModuleList(map(discriminator, (*SIZES[1:], *SIZES[-2::-1])))
        self.optimizer = torch.optim.Adam(self.discriminators.parameters(), lr=1e-3)

    def __call__(self, inputs: Tensor, outputs: list[Tensor]) -> Tensor:
        with torch.no_grad():
            wanted = mean_outputs(self.teachers, inputs)
        real, student = wanted[:-1], outputs[:-1]
        self.optimizer.zero_grad()
        (self.deceived(real, 1.0) + self.deceived([level.detach() for level in student], 0.0)).backward()
        self.optimizer.step()
        match = sum(F.mse_loss(*levels) for levels in zip(student, real)) / len(real)
        likeness = FEATURE_WEIGHT * match + ADVERSARIAL_WEIGHT * self.deceived(student, 1.0)
        return masked_l1(outputs[-1], wanted[-1], inputs) + next(self.shares) * likeness

    def deceived(self, features: Sequence[Tensor], answer: float) -> Tensor:
        """Mean cross-entropy of the discriminators' answers with a given one: 1 for the teachers' features."""
        logits = torch.cat([judge(level) for judge, level in zip(self.discriminators, features)], dim=1)
        return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, answer))


def mean_outputs(networks: Sequence[nn.Module], inputs: Tensor) -> list[Tensor]:
    """Features and dose, each the mean of several networks'."""
    return [torch.stack(outputs).mean(dim=0) for outputs in zip(*(network(inputs) for network in networks))]


@torch.no_grad()
def predicted(networks: Sequence[nn.Module], inputs: Tensor) -> Tensor:
    """The mean dose of several networks, without the negative ones."""
    return torch.stack([network(inputs)[-1] for network in networks]).mean(dim=0).clamp_min(0)


def dose_score(networks: Sequence[nn.Module], data: tuple[Tensor, Tensor]) -> float:
    """Mean error in the body in Gy."""
    return GRAY * float(masked_l1(predicted(networks, data[0]), data[1], data[0]))


def main(
    out: NewFolder = Path("dose_run"),
    seed: int = 0,
    diversity: Annotated[float, typer.Option(help="weight of the term that parts the networks")] = DIVERSITY_WEIGHT,
    quick: Quick = False,
) -> None:
    """Searches diverse dose networks, distils their ensemble, and writes metrics.json and picture.png."""
    new_folder(out)
    start = time.perf_counter()
    scale, space = QUICK if quick else Scale(), DoseSpace()
    with ConsoleProgress(Console()) as bar:
        work = Trainer(scale, seed, bar)
        supernet = Supernet(space, TEACHERS, named_generator(seed, "supernet"))
        paths, teachers = [], []
        for number in range(1, TEACHERS + 1):
            code = torch.full((TEACHERS,), 0.1).index_fill(0, torch.tensor(number - 1), 1.1 - 0.1 * TEACHERS)
            paths.append(work.search(space, supernet, code, teachers, diversity))
            network = space.new_network(paths[-1], named_generator(seed, f"teacher {number}"))
            teachers.append(work.teach(network, f"teacher {number}", scale.steps))
        best = min(range(TEACHERS), key=lambda number: dose_score([teachers[number]], work.data["validation"]))
        alone, student = (space.new_network(paths[best], named_generator(seed, "student")) for _ in range(2))
        work.teach(alone, "student without teachers", 2 * scale.steps)
        distillation = Distillation(teachers, 2 * scale.steps, named_generator(seed, "discriminators"))
        work.teach(student, "student", 2 * scale.steps, distillation)
    test = work.data["test"]
    networks = {f"teacher {number}": [teacher] for number, teacher in enumerate(teachers, start=1)}
    networks |= {"ensemble": teachers, "student": [student], "student without teachers": [alone]}
    scores = {title: dose_score(several, test) for title, several in networks.items()}
    pairs = itertools.combinations([predicted([teacher], test[0]) for teacher in teachers], 2)
    metrics = {
        "seed": seed,
        "quick": quick,
        "diversity_weight": diversity,
        "dose_score_gray": scores,
        "student_is_like": f"teacher {best + 1}",
        "macs": {"ensemble": sum(map(space.count_macs, paths)), "student": space.count_macs(paths[best])},
        "milliseconds": {name: milliseconds(partial(predicted, them), test[0]) for name, them in networks.items()},
        "relative_differences": [float(relative_difference(*pair, test[0])) for pair in pairs],
        "architectures": [space.operation_names(path) for path in paths],
        "seconds": time.perf_counter() - start,
    }
    doses = {"truth": test[1], "ensemble": predicted(teachers, test[0]), "student": predicted([student], test[0])}
    write_results(out, metrics, draw_doses(test[0], {title: GRAY * dose for title, dose in doses.items()}, scores))


if __name__ == "__main__":
    typer.run(main)
