"""Batch-norm statistics of one network, measured anew on training images."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

Batches = Iterable[tuple[Tensor, Tensor]]


@torch.no_grad()
def recalibrate_batch_norm(network: nn.Module, batches: Batches) -> dict[str, Tensor]:
    """Measures the statistics of a network's batch-norm layers anew.

    In a supernet the running statistics mix those of all paths and fit none of them. Each new one is the
    plain average over the batches of the batch's mean or (unbiased) variance.

    Args:
        network: left unchanged.
        batches: images float32 ``[B, C, H, W]`` with labels, which are not looked at.

    Returns:
        The new buffers by their names in ``network.state_dict()``;
        ``network.load_state_dict(statistics, strict=False)`` puts them in place.

    Raises:
        ValueError: if there is no batch.
    """
    measured = copy.deepcopy(network).eval()
    layers = {name: module for name, module in measured.named_modules() if isinstance(module, _BatchNorm)}
    for layer in layers.values():
        layer.reset_running_stats()
        layer.momentum = None  # a plain average over all batches
        layer.train()
    images = None
    for images, _ in batches:
        measured(images)
    if images is None:
        raise ValueError("batches: expected at least one batch to recalibrate batch norm with, got none")
    return {f"{name}.{buffer}": value for name, layer in layers.items() for buffer, value in layer.named_buffers()}
