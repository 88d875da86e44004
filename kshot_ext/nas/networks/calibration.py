"""Whose statistics batch norm normalises by, when a network is scored that has none of its own.

In a supernet the running statistics mix those of all paths and fit none of them. Either they are measured anew on
training images, where the batches b of a layer are joined to one set of n = sum_b n_b values per channel:

    mean = sum_b n_b mean_b / n        var = sum_b n_b (var_b + (mean_b - mean)^2) / (n - 1)

so a batch counts by its size, and the result is that of one batch with all the images. Or each batch is normalised by
its own, which takes no images besides those that are scored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from kshot_ext.nas.networks.evaluation_mode import evaluation_mode

Batches = Iterable[tuple[Tensor, Tensor]]
_Layers = Mapping[str, nn.Module]


def recalibrate_batch_norm(network: nn.Module, batches: Batches) -> dict[str, Tensor]:
    """Measures the statistics of a network's batch-norm layers anew.

    The new ones are mean and unbiased variance of everything that a layer gets from all the batches together. While
    they are measured, each layer normalises with what it has seen so far, the current batch included; so how images
    are dealt into batches does not matter to a layer that reads the images, and little to deeper ones.

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
    layers = _layers(network)
    prefixes = {name: f"{name}." if name else "" for name in layers}
    with recalibrated(network, batches):
        return {
            f"{prefixes[n]}{buffer}": value for n, layer in layers.items() for buffer, value in layer.named_buffers()
        }


@contextmanager
def recalibrated(network: nn.Module, batches: Batches) -> Iterator[None]:
    """Inside the context a network has the statistics of :func:`recalibrate_batch_norm`; afterwards its own again.

    Args:
        network: plain, or with K-shot layers that hold their codes, such as a path of a supernet. Nothing is copied:
            other statistics are put in place of its own, whose tensors stay untouched.
        batches: as there.

    Raises:
        ValueError: as there.
    """
    layers = _layers(network)
    with _replaced_statistics(layers, _unmeasured):
        moments = {name: _Moments(layer) for name, layer in layers.items()}
        images = None
        try:
            with torch.no_grad(), evaluation_mode(network):
                for images, _ in batches:
                    network(images)
        finally:
            for seen in moments.values():
                seen.hook.remove()
        if images is None:
            raise ValueError("batches: expected at least one batch to recalibrate batch norm with, got none")
        for name, seen in moments.items():
            if seen.count == 1:
                raise ValueError(
                    "batches: expected two or more values per channel in all, as a variance needs; "
                    f"layer {name!r} got one"
                )
        yield


@contextmanager
def batch_statistics(network: nn.Module) -> Iterator[None]:
    """Inside the context a network in evaluation mode normalises each batch by its own statistics, and keeps none.

    A layer must then get two or more values per channel in each batch.

    Args:
        network: as in :func:`recalibrated`.

    Example:
        >>> layer = nn.BatchNorm2d(1, affine=False).eval()
        >>> with batch_statistics(layer):
        ...     layer(torch.tensor([1.0, 3.0]).view(2, 1, 1, 1)).flatten()
        tensor([-1.0000,  1.0000])
        >>> layer.running_mean
        tensor([0.])
    """
    with _replaced_statistics(_layers(network), _of_each_batch):
        yield


def _layers(network: nn.Module) -> _Layers:
    """The batch-norm layers that keep statistics, by name."""
    return {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, _BatchNorm) and module.running_mean is not None
    }


@contextmanager
def _replaced_statistics(layers: _Layers, make: Callable[[nn.Module], dict[str, Tensor | None]]) -> Iterator[None]:
    """Inside the context the layers have the buffers that are made for them; afterwards their own again."""
    made = [make(layer) for layer in layers.values()]
    tables = [layer._buffers for layer in layers.values()]
    kept = [dict(table) for table in tables]
    try:
        for table, buffers in zip(tables, made):
            table.update(buffers)
        yield
    finally:
        for table, buffers in zip(reversed(tables), reversed(kept)):  # layers of several widths may share a table
            table.update(buffers)


def _unmeasured(layer: Any) -> dict[str, Tensor | None]:
    """The statistics of a new layer; of a narrow one, as many as it uses."""
    mean = layer.running_mean.new_zeros(layer.num_features)
    tracked = torch.zeros((), dtype=torch.long, device=mean.device)
    return {"running_mean": mean, "running_var": torch.ones_like(mean), "num_batches_tracked": tracked}


def _of_each_batch(layer: nn.Module) -> dict[str, Tensor | None]:
    """No statistics: in evaluation mode such a layer takes those of the batch."""
    return {"running_mean": None, "running_var": None}


class _Moments:
    """What a batch-norm layer has seen; each input is joined to it, before the layer normalises by the whole."""

    def __init__(self, layer: Any) -> None:
        self.count = 0
        self._mean = torch.zeros_like(layer.running_mean, dtype=torch.float64)
        self._squares = torch.zeros_like(self._mean)  # sum of squared deviations from the mean
        self.hook = layer.register_forward_pre_hook(self._join, with_kwargs=True)

    def _join(self, layer: Any, inputs: tuple[Tensor, ...], named: dict[str, Tensor]) -> None:
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
