"""What uniform single paths find: `python -m benchmarks.methods observable spos --data ZIP --truth TABLE`.

Four claims, each for several seeds: statistics of batch norm measured anew rank networks better than those that
training left; evolution's best is at least random search's of as many evaluations; whatever a search evaluates keeps to
the budget; and mixed bits beat one choice of bits in all layers that takes as many bit operations.
"""

from __future__ import annotations

import logging
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from kshot_ext.nas.datasets import load_splits, open_source
from kshot_ext.nas.datasets.batches import batches
from kshot_ext.nas.datasets.source import Part
from kshot_ext.nas.methods import begin_training
from kshot_ext.nas.methods.spos import SinglePathSettings
from kshot_ext.nas.networks.evaluation import InheritedEvaluation, Scores, evaluate_network
from kshot_ext.nas.randomness import named_generator
from kshot_ext.nas.ranking.rank_correlation import rank_correlation
from kshot_ext.nas.runs.truth import read_truth
from kshot_ext.nas.searchers.archive import Archive
from kshot_ext.nas.searchers.generations import Generations, SearchSettings
from kshot_ext.nas.spaces import create_space
from kshot_ext.nas.spaces.architecture import Architecture
from kshot_ext.nas.spaces.bit_width_space import BitWidthSpace
from kshot_ext.nas.spaces.bit_widths import BitWidths, parse_bits
from kshot_ext.nas.spaces.blocks import InvertedResidual, conv_batch_norm, pooled_classifier
from kshot_ext.nas.spaces.limits import SearchLimits
from kshot_ext.nas.spaces.space import SearchSpace
from kshot_ext.nas.spaces.staged_space import Stage, StagedSpace
from kshot_ext.nas.training.loop import TrainingLoop
from kshot_ext.nas.training.retrain import NetworkTrainer, RetrainSettings
from kshot_ext.nas.training.settings import TrainingSettings

logger = logging.getLogger(__name__)
BITS = "w2a3,w2a4,w3a3,w3a4,w4a4"
UNIFORM = BitWidths(3, 3)
"""Its bit operations are the budget; others are cheaper or costlier, so that mixing can save and spend."""
HELD_OUT = {Part.VALIDATION: 0.05, Part.TEST: 0.75}
"""Many test images, since networks of equal cost differ by little; few others, since training takes the time."""


@dataclass(frozen=True)
class Size:
    """How much is measured.

    Args:
        images: used; a fifth is trained on.
        channels: of the first layer of NAS-Bench-Macro; half as many of the six blocks.
        epochs: of each supernet; that of bits, whose layers share more, has twice as many.
        ranked: architectures whose order is compared with the truth.
        population, generations: of each search.
        retrain_epochs: of each network trained from scratch.
        starts: how often the two choices of bits that are compared are trained, each time from other weights.
    """

    images: int = 10_000
    channels: int = 8
    epochs: int = 10
    ranked: int = 50
    population: int = 10
    generations: int = 8
    retrain_epochs: int = 12
    starts: int = 3
    batch_size: int = 64


QUICK = Size(
    images=200, channels=4, epochs=1, ranked=3, population=3, generations=2, retrain_epochs=1, starts=1, batch_size=32
)


class SixBottlenecks(StagedSpace):
    """Six inverted residual blocks and no choice among them: only the bits are left to choose.

    The last block does half of all multiply-accumulates, the first three a sixth.
    """

    def __init__(self, image_shape: tuple[int, int, int], num_classes: int, channels: int) -> None:
        super().__init__(
            "six-bottlenecks",
            image_shape=image_shape,
            num_classes=num_classes,
            operations=("mb3_k3",),
            stem_channels=channels,
            stages=[Stage(channels, 2, 1), Stage(4 * channels, 2, 2), Stage(16 * channels, 2, 2)],
        )

    def stem(self, shape: int) -> torch.nn.Module:
        return conv_batch_norm(self.image_shape[0], shape, 3)

    def candidate(self, operation: str, shape: Any) -> torch.nn.Module:
        return InvertedResidual(
            shape.in_channels,
            3 * shape.in_channels,
            shape.out_channels,
            kernel_size=3,
            stride=shape.stride,
            shortcut=shape.keeps_shape,
        )

    def head(self, shape: int) -> torch.nn.Module:
        return pooled_classifier(shape, 2 * shape, self.num_classes)


class Measurement:
    """All claims for one seed.

    Args:
        seed: decides everything random.
        size: how much is measured.
        data: images; None for the digits that come along.
        truth: table of NAS-Bench-Macro; None to train the networks that are ranked.
    """

    def __init__(self, seed: int, size: Size, data: Path | None, truth: Path | None) -> None:
        self.seed = seed
        self.size = size
        self.truth = truth
        self.splits = load_splits(
            open_source(data),
            generator=self.generator("data"),
            max_images=size.images,
            image_size=None if data is None else 16,
            held_out=HELD_OUT,
        )
        order = torch.randperm(len(self.splits.train), generator=self.generator("calibration"))
        self.calibration = self.splits.train.subset(order[:128])

    def generator(self, purpose: str) -> torch.Generator:
        return named_generator(self.seed, purpose)

    def numbers(self) -> dict[str, float]:
        return {**self.ranking(), **self.searches()}

    def ranking(self) -> dict[str, float]:
        """Kendall's tau and mean accuracy of networks of NAS-Bench-Macro, by either kind of statistics."""
        space = create_space("nas-bench-macro", **self._shape())
        loop = self._trained(space, self.size.epochs)
        architectures, truth = self._truths(space)
        evaluate = self._evaluation(loop)
        anew = [evaluate(architecture) for architecture in architectures]
        as_trained = [self._with_running_statistics(loop, architecture) for architecture in architectures]
        found = {}
        for name, scores in (("recalibrated", anew), ("running", as_trained)):
            tau = rank_correlation(truth, [score.merit("loss") for score in scores]).kendall_tau
            found[f"tau_{name}"] = 0.0 if tau is None else tau
            found[f"accuracy_{name}"] = statistics.fmean(score.accuracy for score in scores)
        return found

    def searches(self) -> dict[str, float]:
        """Evolution, random search and the uniform choice at as many bit operations, with one supernet."""
        splits = self.splits
        space = BitWidthSpace(
            SixBottlenecks(splits.image_shape, splits.num_classes, self.size.channels // 2), parse_bits(BITS)
        )
        loop = self._trained(space, 2 * self.size.epochs)
        uniform = space.with_bits(Architecture((0,) * space.num_layers), UNIFORM)
        most = space.cost(uniform).bit_operations
        evaluate = self._evaluation(loop)
        searches = {}
        for method in ("evolution", "random"):
            settings = SearchSettings(population=self.size.population, generations=self.size.generations, method=method)
            archive = Archive(evaluate, space, SearchLimits(max_bit_operations=most), self.generator("search"))
            search = Generations(archive, settings)
            while not search.finished:
                search.step()
            searches[method] = archive
        best = searches["evolution"].best
        mixed, one = (
            Scores.mean(self._retrained(space, architecture, start) for start in range(self.size.starts))
            for architecture in (best.architecture, uniform)
        )
        history = [item for search in searches.values() for item in search.history]
        return {
            "evaluations_evolution": len(searches["evolution"].history),
            "evaluations_random": len(searches["random"].history),
            "loss_evolution": best.scores.loss,
            "loss_random": searches["random"].best.scores.loss,
            "loss_uniform": evaluate(uniform).loss,
            "share_within_budget": statistics.fmean(item.bit_operations <= most for item in history),
            "bit_operations_uniform": most,
            "bit_operations_mixed": best.bit_operations,
            "test_accuracy_mixed": mixed.accuracy,
            "test_accuracy_uniform": one.accuracy,
            "test_loss_mixed": mixed.loss,
            "test_loss_uniform": one.loss,
        }

    def _shape(self) -> dict[str, Any]:
        splits = self.splits
        return {
            "image_shape": splits.image_shape,
            "num_classes": splits.num_classes,
            "channels": self.size.channels,
        }

    def _trained(self, space: SearchSpace, epochs: int) -> TrainingLoop:
        settings = TrainingSettings(epochs=epochs, batch_size=self.size.batch_size, held_out_share=0.01)
        loop = begin_training(SinglePathSettings(), space, self.splits, settings, seed=self.seed)
        while not loop.finished:
            loop.train_epoch()
        return loop

    def _evaluation(self, loop: TrainingLoop) -> InheritedEvaluation:
        splits = self.splits
        networks = loop.method.networks
        return InheritedEvaluation(networks, self.calibration, splits.validation, splits.mean, splits.std)

    def _with_running_statistics(self, loop: TrainingLoop, architecture: Architecture) -> Scores:
        with loop.method.networks.network(architecture) as network:
            return evaluate_network(network, self._batches(self.splits.validation))

    def _truths(self, space: SearchSpace) -> tuple[list[Architecture], list[float]]:
        if self.truth is None:
            architectures = [space.sample(self.generator(f"truth {index}")) for index in range(self.size.ranked)]
            return architectures, [-self._retrained(space, architecture).loss for architecture in architectures]
        table = read_truth(self.truth, space)
        known = sorted(table, key=lambda architecture: architecture.operations)
        order = torch.randperm(len(known), generator=self.generator("ranking"))[: self.size.ranked]
        architectures = [known[index] for index in order.tolist()]
        return architectures, [table[architecture] for architecture in architectures]

    def _retrained(self, space: SearchSpace, architecture: Architecture, start: int = 0) -> Scores:
        """Test scores of a network trained from scratch, from the weights that all begin with in this start."""
        generator = self.generator(f"retraining {start}")
        network = space.build(architecture, generator)
        settings = RetrainSettings(epochs=self.size.retrain_epochs, batch_size=self.size.batch_size)
        trainer = NetworkTrainer(network, self.splits, settings, generator)
        while not trainer.finished:
            trainer.train_epoch()
        return evaluate_network(network, self._batches(self.splits.test))

    def _batches(self, images: Any) -> Any:
        return batches(images, 256, mean=self.splits.mean, std=self.splits.std)


def run(seeds: Sequence[int], quick: bool, data: Path | None = None, truth: Path | None = None) -> dict[str, Any]:
    """Every number of every seed, and which claims hold.

    Args:
        seeds: of the measurements.
        quick: whether only to show that it works.
        data: images; None for the digits that come along.
        truth: table of NAS-Bench-Macro; None to train the networks that are ranked.
    """
    size = QUICK if quick else Size()
    if truth is None:
        size = replace(size, ranked=min(size.ranked, 12))
    measured = []
    for seed in seeds:
        measured.append(Measurement(seed, size, data, truth).numbers())
        logger.info("seed %s: %s", seed, measured[-1])
    numbers = {name: [each[name] for each in measured] for name in measured[0]}
    return {
        "seeds": [*seeds],
        "claims": claims(numbers),
        "means": {name: statistics.fmean(values) for name, values in numbers.items()},
        "numbers": numbers,
    }


def claims(numbers: Mapping[str, Sequence[float]]) -> dict[str, bool]:
    """Whether each claim holds on average over the seeds; the one about budgets for every single network."""
    mean = {name: statistics.fmean(values) for name, values in numbers.items()}
    return {
        "recalibration lifts the rank correlation": mean["tau_recalibrated"] > mean["tau_running"],
        "evolution's best is at least random search's": mean["loss_evolution"] <= mean["loss_random"],
        "every network keeps to the budget": min(numbers["share_within_budget"]) == 1,
        "mixed bits beat uniform ones": mean["test_accuracy_mixed"] > mean["test_accuracy_uniform"],
    }
