"""Accuracy and loss of networks, on their own or inside the supernet."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kshot_ext.nas.checks import check_at_least, check_given, check_one_of
from kshot_ext.nas.datasets.batches import batches
from kshot_ext.nas.datasets.streamed import Images
from kshot_ext.nas.networks.calibration import Batches, batch_statistics, recalibrated
from kshot_ext.nas.networks.coded_supernet import InheritedNetworks
from kshot_ext.nas.networks.evaluation_mode import evaluation_mode
from kshot_ext.nas.spaces.architecture import Architecture
from kshot_ext.nas.task import CLASSIFICATION, Task

SCORES = ("loss", "accuracy")
"""What networks can be ranked by; see `Scores.merit`."""

_STATISTICS = ("recalibrated", "batch")
_BATCH_SIZE = 256
_LEAST_FOR_STATISTICS, _MOST_FOR_STATISTICS = 64, 512
_PIXELS_FOR_STATISTICS = 2**19  # a batch's, which bound the memory that its activations take


@dataclass(frozen=True)
class Scores:
    """How well a network does its task.

    Args:
        accuracy: the task's metric; of classes the share of images whose highest logit is at their label, where one
            with logits that are no numbers is wrong.
        loss: the task's mean loss; of classes the cross-entropy, in nats; infinite where outputs are no numbers. Of as
            many images it tells networks apart better than the accuracy, as it sees how sure they are, too.
        lower_is_better: whether a lower metric is better.
    """

    accuracy: float
    loss: float
    lower_is_better: bool = False

    @property
    def finite(self) -> bool:
        """Whether the network gave numbers for every image."""
        return math.isfinite(self.loss)

    def merit(self, score: str) -> float:
        """What ranks networks, the higher the better: the ``"accuracy"``, or the ``"loss"`` with its sign turned; minus
        infinity for a network that gave no numbers."""
        if not self.finite:
            return -math.inf
        if score == "loss":
            return -self.loss
        return -self.accuracy if self.lower_is_better else self.accuracy

    @classmethod
    def mean(cls, several: Iterable[Scores]) -> Scores:
        """The means of those that are finite; a loss of infinity and an accuracy that is no number if none are."""
        finite = [scores for scores in several if scores.finite]
        if not finite:
            return cls(math.nan, math.inf)
        accuracy, loss = (sum(values) / len(finite) for values in zip(*((s.accuracy, s.loss) for s in finite)))
        return cls(accuracy, loss, finite[0].lower_is_better)


@torch.no_grad()
def evaluate_network(network: nn.Module, batches: Batches, task: Task = CLASSIFICATION) -> Scores:
    """Scores of a network in evaluation mode.

    Args:
        network: from images to outputs ``[B, num_outputs]``; the modes of its modules are restored afterwards.
        batches: images float32 ``[B, C, H, W]`` and labels, int64 ``[B]`` or what the task says.
        task: what labels mean.

    Raises:
        ValueError: if there is no image.
    """
    metric, loss, total = 0.0, 0.0, 0
    with evaluation_mode(network):
        for images, labels in batches:
            outputs = network(images).float()
            metric += task.metric_sum(outputs, labels)
            loss += task.loss_sum(outputs, labels)
            total += len(labels)
    if total == 0:
        raise ValueError("batches: expected at least one image to score the network on, got none")
    return Scores(metric / total, math.inf if math.isnan(loss) else loss / total, not task.higher_is_better)


@dataclass(frozen=True)
class EvaluationSettings:
    """How networks are scored with a supernet's weights.

    Args:
        score: what ranks networks, ``"loss"`` or ``"accuracy"`` on held-out images, the latter being the task's metric.
            Two halves of the images agree better on the order of losses.
        statistics: of batch norm. ``"recalibrated"``: measured on training images for each network, as they are when a
            network is used. ``"batch"``: of the images scored themselves, some hundreds at a time, which saves the
            pass over training images; what an image gets then depends on those around it.
        images: most held-out images to score a network on, drawn at random, the same for all networks; None for all.

    Raises:
        ValueError: if a value is out of range.
    """

    score: str = "loss"
    statistics: str = "recalibrated"
    images: int | None = None

    def __post_init__(self) -> None:
        check_one_of("score", self.score, SCORES)
        check_one_of("statistics", self.statistics, _STATISTICS)
        if self.images is not None:
            check_at_least("images", self.images, 2)


@torch.no_grad()
def evaluate_architecture(
    networks: InheritedNetworks,
    architecture: Architecture,
    calibration: Batches | None,
    validation: Batches,
    score_network: Callable[[nn.Module, Batches], Scores] = evaluate_network,
) -> Scores:
    """Scores of one network with inherited weights and its own batch-norm statistics.

    The supernet's own modules compute them, so nothing is built or copied for a network.

    Args:
        networks: give the network; left unchanged.
        architecture: which network.
        calibration: batches of training images that the statistics are measured on; None to normalise each batch of
            ``validation`` by its own.
        validation: batches that are classified.
        score_network: what scores a network on batches.
    """
    with networks.network(architecture) as network:
        statistics = batch_statistics(network) if calibration is None else recalibrated(network, calibration)
        with statistics:
            scores = score_network(network, validation)
    check_given("score_network", scores, Scores)
    return scores


@dataclass(frozen=True, eq=False)
class InheritedEvaluation:
    """Scores of any network with inherited weights; can be sent to other processes.

    Args:
        networks: give the networks; left unchanged.
        calibration: training images that batch-norm statistics are measured on, where they are.
        validation: images that are classified.
        mean, std: float32 ``[C]``, of the images.
        statistics: as in :class:`EvaluationSettings`.
        score_network: what scores a network on batches; can be sent to other processes, too.
    """

    networks: InheritedNetworks
    calibration: Images
    validation: Images
    mean: Tensor
    std: Tensor
    statistics: str = "recalibrated"
    score_network: Callable[[nn.Module, Batches], Scores] = evaluate_network

    def __call__(self, architecture: Architecture) -> Scores:
        """Scores of the architecture on the validation images."""
        recalibrated = self.statistics == "recalibrated"
        return evaluate_architecture(
            self.networks,
            architecture,
            self._batches(self.calibration) if recalibrated else None,
            self._batches(self.validation) if recalibrated else self._mixed_batches(self.validation),
            self.score_network,
        )

    def _batches(self, images: Images, batch_size: int = _BATCH_SIZE) -> Iterator[tuple[Tensor, Tensor]]:
        return batches(images, batch_size, mean=self.mean, std=self.std)

    def _mixed_batches(self, images: Images) -> Iterator[tuple[Tensor, Tensor]]:
        """Equally large batches of images from everywhere, always the same: their statistics are alike."""
        _, height, width = images.image_shape
        most = _PIXELS_FOR_STATISTICS // (height * width)
        most = max(_LEAST_FOR_STATISTICS, min(most, _MOST_FOR_STATISTICS))
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
        for chosen in order.tensor_split(-(-len(images) // most)):
            yield from self._batches(images.subset(chosen), len(chosen))
