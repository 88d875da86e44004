"""Modules of which only the shapes are wanted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

_INITIALISED = (nn.modules.conv._ConvNd, nn.Linear, nn.modules.batchnorm._NormBase)
_SHAPE_KEEPING = {
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d),
    *(nn.ReLU, nn.ReLU6, nn.SiLU, nn.GELU, nn.Sigmoid, nn.Hardswish, nn.Hardsigmoid),
}


@contextmanager
def outlines() -> Iterator[None]:
    """Modules made inside have shapes but no values: they take no memory and draw no random number.

    They are on the meta device. Their layers skip the choice of initial values, which would take half of the time.

    Example:
        >>> with outlines():
        ...     layer = nn.Linear(4, 2)
        >>> layer.weight
        Parameter containing:
        tensor(..., device='meta', size=(2, 4), requires_grad=True)
    """
    with ExitStack() as stack:
        kind: Any
        for kind in _INITIALISED:
            stack.callback(setattr, kind, "reset_parameters", kind.reset_parameters)
            kind.reset_parameters = _unless_meta(kind.reset_parameters)
        with torch.device("meta"):
            yield


def run_outline(network: nn.Module, input_shape: Sequence[int]) -> None:
    """Runs a network of outlines, for the sake of hooks that look at shapes.

    Normalisation and activations pass their input on: torch computes their shapes by slow Python code.

    Args:
        network: on the meta device.
        input_shape: of the whole batch.
    """
    passed_over = [module for module in network.modules() if type(module) in _SHAPE_KEEPING]
    for module in passed_over:
        module.forward = _pass_on
    try:
        network.eval()(torch.empty(*input_shape, device="meta"))
    finally:
        for module in passed_over:
            del module.forward


def _pass_on(input: Tensor) -> Tensor:
    return input


def _unless_meta(reset: Callable[[nn.Module], None]) -> Callable[[nn.Module], None]:
    def reset_unless_meta(layer: nn.Module) -> None:
        # Layers that another thread makes at the same time are on a device, and get their values.
        if not all(tensor.is_meta for tensor in (*layer.parameters(), *layer.buffers())):
            reset(layer)

    return reset_unless_meta
