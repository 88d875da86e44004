"""Accuracy and loss of networks, on their own or inside the supernet."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kshot_ext.nas.datasets.batches import batches
from kshot_ext.nas.datasets.splits import ImageSet
from kshot_ext.nas.networks.calibration import Batches
from kshot_ext.nas.networks.export import extract
from kshot_ext.nas.networks.simplex_net import SimplexNet
from kshot_ext.nas.networks.supernet import Supernet
from kshot_ext.nas.spaces.architecture import Architecture

_BATCH_SIZE = 256


@dataclass(frozen=True)
class Scores:
    """How well a network classifies images.

    Args:
        accuracy: share of images whose highest logit is at their label; one with logits that are no numbers is wrong.
        loss: mean cross-entropy, in nats; infinite where logits are no numbers. Of as many images it tells networks
            apart better than the accuracy, as it sees how sure they are, too.
    """

    accuracy: float
    loss: float

    @property
    def finite(self) -> bool:
        """Whether the network gave numbers for every image."""
        return math.isfinite(self.loss)


@torch.no_grad()
def evaluate_network(network: nn.Module, batches: Batches) -> Scores:
    """Scores of a network in evaluation mode.

    Args:
        network: from images to logits ``[B, num_classes]``; its mode is restored afterwards.
        batches: images float32 ``[B, C, H, W]`` and labels int64 ``[B]``.

    Raises:
        ValueError: if there is no image.
    """
    was_training = network.training
    network.eval()
    correct, loss, total = 0, 0.0, 0
    for images, labels in batches:
        logits = network(images)
        right = (logits.argmax(dim=1) == labels) & ~logits.isnan().any(dim=1)  # argmax takes NaN for the highest
        correct += int(right.sum())
        loss += float(F.cross_entropy(logits.float(), labels, reduction="sum"))
        total += len(labels)
    network.train(was_training)
    if total == 0:
        raise ValueError("batches: expected at least one image to score the network on, got none")
    return Scores(correct / total, math.inf if math.isnan(loss) else loss / total)


def evaluate_architecture(
    supernet: Supernet,
    architecture: Architecture,
    code: Tensor,
    calibration: Batches,
    validation: Batches,
) -> Scores:
    """Scores of one network of a supernet, with inherited weights and its own batch-norm statistics.

    Args:
        supernet: left unchanged.
        architecture: which network.
        code: ``[K]`` or ``[L, K]``, mixes the weight copies.
        calibration: batches of training images that the statistics are measured on.
        validation: batches that are classified.
    """
    return evaluate_network(extract(supernet, architecture, code, calibration), validation)


@dataclass(frozen=True, eq=False)
class SupernetEvaluation:
    """Scores of any network of a trained supernet; can be sent to other processes.

    Called, it gives the accuracy alone, which searches maximise.

    Args:
        supernet, simplex_net: give weights and codes; left unchanged.
        calibration: training images that batch-norm statistics are measured on.
        validation: images that are classified.
        mean, std: float32 ``[C]``, of the images.
    """

    supernet: Supernet
    simplex_net: SimplexNet
    calibration: ImageSet
    validation: ImageSet
    mean: Tensor
    std: Tensor

    def __call__(self, architecture: Architecture) -> float:
        """Share of the validation images that the architecture gets right; NaN if its network gives no finite loss."""
        scores = self.scores(architecture)
        return scores.accuracy if scores.finite else math.nan

    def scores(self, architecture: Architecture) -> Scores:
        """Scores of the architecture on the validation images."""
        return evaluate_architecture(
            self.supernet,
            architecture,
            self.simplex_net.code(architecture),
            self._batches(self.calibration),
            self._batches(self.validation),
        )

    def _batches(self, images: ImageSet) -> Iterator[tuple[Tensor, Tensor]]:
        return batches(images, _BATCH_SIZE, mean=self.mean, std=self.std)
