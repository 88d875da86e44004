"""Searches a light Siamese tracker as LightTrack does, over backbone, output layer and head, on rendered videos.

A tracker is shown an object once, as the template z, and finds it again in a window x around where it was last. Both go
through one backbone; each position p of the template's features is a 1x1 kernel over those of the window,

    correlation[p, i] = <embed(z)[p], embed(x)[i]>,

and two towers read the correlations: one scores the positions i, the other gives the sides of the box around each. A
K-shot supernet learns all trackers by random paths, evolution picks the one with the highest average overlap, and it is
trained anew beside random trackers and a hand-made one of as many multiply-accumulates.

    python examples/light_track.py --out tracker --seed 0

Yan et al., "LightTrack: Finding Lightweight Neural Networks for Object Tracking via One-Shot Architecture Search",
CVPR 2021. docs/examples/light_track.md has the results, and what differs from the paper.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import typer
from rich.console import Console
from torch import Tensor, nn

from kshot_ext.nas.networks.calibration import recalibrated
from kshot_ext.nas.networks.code_settings import CodeSettings
from kshot_ext.nas.networks.coded_supernet import CodedSupernet
from kshot_ext.nas.networks.evaluation import Scores
from kshot_ext.nas.networks.simplex_net import SimplexNet
from kshot_ext.nas.networks.supernet import Supernet
from kshot_ext.nas.progress import ConsoleProgress
from kshot_ext.nas.randomness import named_generator
from kshot_ext.nas.searchers.archive import Archive
from kshot_ext.nas.searchers.generations import Generations, SearchSettings
from kshot_ext.nas.spaces.architecture import Architecture
from kshot_ext.nas.spaces.blocks import InvertedResidual, conv_batch_norm, depthwise_batch_norm
from kshot_ext.nas.spaces.counting import Cost
from kshot_ext.nas.spaces.limits import SearchLimits
from kshot_ext.nas.spaces.sampling import random_architecture_of_equal_budget
from kshot_ext.nas.spaces.space import NetworkShape, SearchSpace
from kshot_ext.nas.spaces.width_ratios import scaled
from parts.common import NewFolder, Quick, nesterov_sgd, new_folder, train, write_results
from parts.pictures import draw_tracks
from parts.siamese import KERNEL, Tracker, average_overlap, track, tracking_loss
from parts.videos import WINDOW, Videos, random_pairs

STEM, NECK, TOWER = 8, 24, 24  # channels
BLOCKS = ((8, 24, 2), (24, 24, 1), (24, 24, 1), (24, 24, 1))  # channels in and out, stride
SHOTS, SUPERNET_RATE, LEARNING_RATE = 2, 0.1, 0.2
RISE = (-0.3, 1.4)  # of the chance that a choice is random, over the supernet's training; cut to 0 to 1


@dataclass(frozen=True)
class Scale:
    """How much is computed."""

    batch: int = 16
    supernet_steps: int = 500
    population: int = 10
    generations: int = 4
    steps: int = 200  # of each network that is trained anew
    videos: int = 20
    test_videos: int = 120
    frames: int = 16
    rivals: int = 2  # random trackers


QUICK = Scale(8, supernet_steps=6, population=3, generations=2, steps=4, videos=2, test_videos=2, frames=4, rivals=1)


class OutputLayer(nn.Sequential):
    """1x1 convolution of the features of one block; the blocks behind it are not needed."""

    def __init__(self, depth: int) -> None:
        super().__init__(conv_batch_norm(BLOCKS[depth - 1][1], NECK, 1, activation=None))
        self.depth = depth


class TrackerSpace(SearchSpace):
    """Four blocks, the block whose features are used, and the two towers with their widths; cheap choices first."""

    def __init__(self) -> None:
        tower = [("separable 3", "separable 5"), *[("skip", "separable 3", "separable 5")] * 2]
        super().__init__(
            "tracker",
            image_shape=(3, WINDOW, WINDOW),
            num_classes=5,  # what the head puts out for each position
            operations=[
                *[("block 3 2", "block 7 2", "block 3 4")] * len(BLOCKS),
                tuple(f"output {depth}" for depth in (2, 3, 4)),
                *(tower * 2),
            ],
            width_names=("score tower", "box tower"),
            widths=(0.5, 0.75, 1.0),
        )

    def network_shape(self, ratios: tuple[float, ...]) -> NetworkShape:
        widths = tuple(scaled(TOWER, ratio) for ratio in ratios)
        towers = [shape for width in widths for shape in ((NECK, width), (width, width), (width, width))]
        return NetworkShape(stem=None, layers=(*BLOCKS, None, *towers), head=widths)

    def stem(self, shape: None) -> nn.Module:
        return conv_batch_norm(3, STEM, 3, stride=2)

    def candidate(self, operation: str, shape: tuple[int, ...] | None) -> nn.Module:
        kind, *numbers = operation.split()
        if kind == "skip":
            return nn.Identity()
        if kind == "output":
            return OutputLayer(int(numbers[0]))
        kernel_size, *expansion = map(int, numbers)
        if kind == "separable":
            return nn.Sequential(depthwise_batch_norm(shape[0], kernel_size), conv_batch_norm(*shape, 1))
        come, go, stride = shape
        inner = expansion[0] * come
        return InvertedResidual(come, inner, go, kernel_size=kernel_size, stride=stride, shortcut=stride == 1)

    def head(self, shape: tuple[int, int]) -> nn.Module:
        score, box = shape
        return nn.ModuleDict(
            {
                "fusion": conv_batch_norm(KERNEL**2, NECK, 1),
                "score": nn.Conv2d(score, 1, 1),
                "box": nn.Conv2d(box, 4, 1),
            }
        )

    def assemble(self, stem: nn.Module, layers: list[nn.Module], head: nn.Module) -> Tracker:
        return Tracker(stem, list(layers), head)

    def depth(self, architecture: Architecture) -> int:
        """The block whose features are used."""
        return int(self.operation_names(architecture)[len(BLOCKS)].split()[1])

    def cost(self, architecture: Architecture) -> Cost:
        """Of a frame of a video, whose template is embedded once and for all; without the blocks that are not run."""
        whole = super().cost(architecture)
        unused = [self.layer_cost(i, architecture.operations[i]) for i in range(self.depth(architecture), len(BLOCKS))]
        return Cost(whole.macs - sum(c.macs for c in unused), whole.parameters - sum(c.parameters for c in unused))

    def largest(self) -> Architecture:
        """By the order of choices: output layers cost the same, but for the blocks in front."""
        return self.from_genes([count - 1 for count in self.num_choices])

    def hand_made(self) -> Architecture:
        """What one would draw: kernels of 3 everywhere, the deepest features, full towers."""
        names = ("block 3 4",) * len(BLOCKS) + ("output 4",) + ("separable 3",) * 6
        return Architecture(tuple(self.operations(i).index(name) for i, name in enumerate(names)), widths=(2, 2))


def train_supernet(space: TrackerSpace, scale: Scale, seed: int, bar: ConsoleProgress) -> CodedSupernet:
    """All trackers at once: a path a step, under the code that its cost gives it.

    A path of random operations learns nothing where all around it are new as well. So the largest path goes first; then
    choices of it are drawn anew, with a chance that rises to 1.
    """
    supernet = Supernet(space, SHOTS, named_generator(seed, "supernet"))
    codes = SimplexNet(space, SHOTS, named_generator(seed, "codes"), settings=CodeSettings(start="cost"))
    generator = named_generator(seed, "training of the supernet")
    rise = iter(torch.linspace(*RISE, scale.supernet_steps).clamp(0, 1).tolist())

    def next_path(images: tuple[Tensor, Tensor]) -> Tensor:
        choices = zip(*(space.genes(path) for path in (space.largest(), space.sample(generator))))
        anew = (torch.rand(len(space.num_choices), generator=generator) < next(rise)).tolist()
        path = space.from_genes([pair[new] for pair, new in zip(choices, anew)])
        return supernet(images, path, codes.code(path))

    losses = pair_losses(next_path, scale, generator)
    train(nesterov_sgd(supernet, SUPERNET_RATE, shots=SHOTS), scale.supernet_steps, losses, bar, "supernet")
    return CodedSupernet(supernet, codes)


def pair_losses(predict: Callable[..., Tensor], scale: Scale, generator: torch.Generator) -> Callable[[], Tensor]:
    """The losses of training steps, on new pairs each."""

    def loss() -> Tensor:
        images, boxes = random_pairs(scale.batch, generator)
        return tracking_loss(predict(images), boxes)

    return loss


def evolve(
    coded: CodedSupernet, limits: SearchLimits, scale: Scale, seed: int, bar: ConsoleProgress
) -> tuple[Architecture, list[float]]:
    """The path of the highest average overlap, each with batch-norm statistics of its own; the best of generations."""
    generator = named_generator(seed, "evolution")
    pairs = [random_pairs(2 * scale.batch, generator) for _ in range(3)]
    videos = Videos.random(torch.arange(scale.frames).expand(scale.videos, -1), generator)

    def evaluate(path: Architecture) -> Scores:
        with coded.network(path) as network, recalibrated(network, pairs):
            found = average_overlap(network, videos)
        return Scores(accuracy=found, loss=1 - found)

    archive = Archive(evaluate, coded.supernet.space, limits, generator, score="accuracy")
    search = Generations(
        archive, SearchSettings(scale.population, scale.generations, mutation_probability=0.1, method="evolution")
    )
    bar.start("evolution", scale.generations)
    bests: list[float] = []
    while not search.finished:
        bests.append(search.step().best.merit)
        bar.finish_step(search.generation, {"best average overlap": bests[-1]})
    return archive.best.architecture, bests


def main(
    out: NewFolder = Path("light_track_run"),
    seed: int = 0,
    quick: Quick = False,
) -> None:
    """Searches a tracker, trains it beside others of equal cost, and writes metrics.json and picture.png."""
    new_folder(out)
    start = time.perf_counter()
    scale, space = QUICK if quick else Scale(), TrackerSpace()
    hand_made = space.hand_made()
    budget = space.count_macs(hand_made)
    generator = named_generator(seed, "test")
    test = Videos.random(torch.arange(scale.frames).expand(scale.test_videos, -1), generator)
    with ConsoleProgress(Console()) as bar:
        coded = train_supernet(space, scale, seed, bar)
        found, bests = evolve(coded, SearchLimits(max_macs=budget), scale, seed, bar)
        paths = {"found": found, "hand-made": hand_made}
        for number in range(1, scale.rivals + 1):
            rival = random_architecture_of_equal_budget(space, budget, 0.05, generator, exclude=paths.values())
            paths[f"random {number}"] = rival
        networks = {title: space.new_network(path, named_generator(seed, "network")) for title, path in paths.items()}
        for title, network in networks.items():
            losses = pair_losses(network, scale, named_generator(seed, "training"))  # the same pairs for all
            train(nesterov_sgd(network, LEARNING_RATE), scale.steps, losses, bar, title)
    overlaps = {title: average_overlap(network, test) for title, network in networks.items()}
    rivals = [value for title, value in overlaps.items() if title.startswith("random")]
    metrics = {
        "seed": seed,
        "quick": quick,
        "average_overlap": overlaps | {"random": sum(rivals) / len(rivals)},
        "macs": {title: space.count_macs(path) for title, path in paths.items()},
        "output_block": {title: space.depth(path) for title, path in paths.items()},
        "best_of_each_generation": bests,
        "found": [*space.operation_names(paths["found"]), *space.ratios(paths["found"])],
        "seconds": time.perf_counter() - start,
    }
    tracks = {title: track(networks[title], test) for title in ("found", "hand-made")}
    write_results(out, metrics, draw_tracks(test, tracks, overlaps))


if __name__ == "__main__":
    typer.run(main)
