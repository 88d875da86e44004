"""Multiply-accumulates and parameters of a network, counted from its layers' geometry."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

_COUNTED = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
_UNCOUNTED = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.GroupNorm, nn.LayerNorm, nn.PReLU)


@dataclass(frozen=True)
class Cost:
    """What a network costs.

    Args:
        macs: multiply-accumulates for one sample.
        parameters: trainable numbers.
    """

    macs: int
    parameters: int

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.macs + other.macs, self.parameters + other.parameters)


def measure(build: Callable[[], nn.Module], input_shape: Sequence[int]) -> tuple[Cost, tuple[int, ...]]:
    """Counts the cost of a module for one sample and tells the shape of its output.

    Convolutions and linear layers count ``weight elements * output positions`` multiply-accumulates;
    biases, normalisation, activations and pooling count none, as in the tables of NAS-Bench-Macro (Su et al.,
    CVPR 2021).

    Args:
        build: makes the module; called with torch's default device set to "meta", so no memory is used and no
            random number is drawn.
        input_shape: shape of one sample, without the batch dimension.

    Returns:
        The cost, and the shape of one output sample.

    Raises:
        TypeError: if a layer with parameters is of a kind this function has no rule for.

    Example:
        >>> measure(lambda: nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False), (3, 8, 8))
        (Cost(macs=3456, parameters=216), (8, 4, 4))
    """
    macs = 0

    def count(layer: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal macs
        channel_dim = -1 if isinstance(layer, nn.Linear) else 1
        positions = output.numel() // output.shape[channel_dim]
        macs += layer.weight.numel() * positions

    with torch.device("meta"):
        module = build().eval()
        sample = torch.empty(1, *input_shape)
    for name, layer in module.named_modules():
        if isinstance(layer, _COUNTED):
            layer.register_forward_hook(count)
        elif next(layer.parameters(recurse=False), None) is not None and not isinstance(layer, _UNCOUNTED):
            raise TypeError(f"layer {name!r}: no rule to count the multiply-accumulates of {type(layer).__name__}")
    output_shape = module(sample).shape[1:]
    parameters = sum(parameter.numel() for parameter in module.parameters())
    return Cost(macs, parameters), tuple(output_shape)
