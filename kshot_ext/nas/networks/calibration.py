"""Batch-norm statistics of one network, measured anew on training images.

Batches b of a layer are joined to one set of n = sum_b n_b values per channel:

    mean = sum_b n_b mean_b / n        var = sum_b n_b (var_b + (mean_b - mean)^2) / (n - 1)

so a batch counts by its size, and the result is that of one batch with all the images.
"""

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

    In a supernet the running statistics mix those of all paths and fit none of them. The new ones are mean and unbiased
    variance of everything that a layer gets from all the batches together. While they are measured, each layer
    normalises with what it has seen so far, the current batch included; so how images are dealt into batches does not
    matter to a layer that reads the images, and little to deeper ones.

    Args:
        network: left unchanged.
        batches: images float32 ``[B, C, H, W]`` with labels, which are not looked at; of any sizes, one image too.

    Returns:
        The new buffers by their names in ``network.state_dict()``;
        ``network.load_state_dict(statistics, strict=False)`` puts them in place. Layers without buffers keep to the
        statistics of each batch, as they do in evaluation.

    Raises:
        ValueError: if there is no batch, or a layer gets a single value per channel, which has no variance.

    Example:
        >>> images = torch.arange(6.0).reshape(6, 1, 1, 1)
        >>> statistics = recalibrate_batch_norm(nn.BatchNorm2d(1), [(images[:5], None), (images[5:], None)])
        >>> statistics["running_mean"], statistics["running_var"]
        (tensor([2.5000]), tensor([3.5000]))
    """
    measured = copy.deepcopy(network).eval()
    layers = {
        name: module
        for name, module in measured.named_modules()
        if isinstance(module, _BatchNorm) and module.running_mean is not None
    }
    moments = {name: _Moments(layer) for name, layer in layers.items()}
    images = None
    for images, _ in batches:
        measured(images)
    if images is None:
        raise ValueError("batches: expected at least one batch to recalibrate batch norm with, got none")
    for name, seen in moments.items():
        if seen.count == 1:
            raise ValueError(
                f"batches: expected two or more values per channel in all, as a variance needs; layer {name!r} got one"
            )
    prefixes = {name: f"{name}." if name else "" for name in layers}
    return {f"{prefixes[n]}{buffer}": value for n, layer in layers.items() for buffer, value in layer.named_buffers()}


class _Moments:
    """What a batch-norm layer has seen; each input is joined to it, before the layer normalises by the whole."""

    def __init__(self, layer: _BatchNorm) -> None:
        layer.reset_running_stats()
        self.count = 0
        self._mean = torch.zeros_like(layer.running_mean, dtype=torch.float64)
        self._squares = torch.zeros_like(self._mean)  # sum of squared deviations from the mean
        layer.register_forward_pre_hook(self._join, with_kwargs=True)

    def _join(self, layer: _BatchNorm, inputs: tuple[Tensor, ...], named: dict[str, Tensor]) -> None:
        values = inputs[0] if inputs else named["input"]
        values = values.to(torch.promote_types(values.dtype, torch.float32))
        count = values.numel() // values.shape[1]
        if count == 0:
            return
        # Two plain means: torch.var_mean takes ten times as long on channels_last images.
        across = [0, *range(2, values.dim())]
        mean = values.mean(across, keepdim=True)
        variance = (values - mean).square_().mean(across).double()
        shift = mean.flatten().double() - self._mean
        total = self.count + count
        self._mean += shift * (count / total)
        self._squares += count * variance + shift.square() * (self.count * count / total)
        self.count = total
        layer.running_mean.copy_(self._mean)
        layer.running_var.copy_(self._squares / max(total - 1, 1))
        layer.num_batches_tracked += 1
