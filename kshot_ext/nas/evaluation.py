"""Accuracy of networks, on their own or inside the supernet."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kshot_ext.nas.architecture import Architecture
from kshot_ext.nas.calibration import Batches
from kshot_ext.nas.export import extract
from kshot_ext.nas.supernet import Supernet


@torch.no_grad()
def accuracy(network: nn.Module, batches: Batches) -> float:
    """Share of images whose highest score is at their label, in evaluation mode.

    Args:
        network: from images to scores ``[B, num_classes]``; its mode is restored afterwards.
        batches: images float32 ``[B, C, H, W]`` and labels int64 ``[B]``.

    Raises:
        ValueError: if there is no image.
    """
    was_training = network.training
    network.eval()
    correct = total = 0
    for images, labels in batches:
        correct += int((network(images).argmax(dim=1) == labels).sum())
        total += len(labels)
    network.train(was_training)
    if total == 0:
        raise ValueError("batches: expected at least one image to score the network on, got none")
    return correct / total


def evaluate_architecture(
    supernet: Supernet,
    architecture: Architecture,
    code: Tensor,
    calibration: Batches,
    validation: Batches,
) -> float:
    """Accuracy of one network of a supernet, with inherited weights and its own batch-norm statistics.

    Args:
        supernet: left unchanged.
        architecture: which network.
        code: ``[K]`` or ``[L, K]``, mixes the weight copies.
        calibration: batches of training images that the statistics are measured on.
        validation: batches that the accuracy is measured on.
    """
    return accuracy(extract(supernet, architecture, code, calibration), validation)
