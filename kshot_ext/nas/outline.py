"""Modules of which only the shapes are wanted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn

_INITIALISED = (nn.modules.conv._ConvNd, nn.Linear, nn.modules.batchnorm._NormBase)


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
        for kind in _INITIALISED:
            stack.callback(setattr, kind, "reset_parameters", kind.reset_parameters)
            kind.reset_parameters = _unless_meta(kind.reset_parameters)
        with torch.device("meta"):
            yield


def _unless_meta(reset: Callable[[nn.Module], None]) -> Callable[[nn.Module], None]:
    def reset_unless_meta(layer: nn.Module) -> None:
        # Layers that another thread makes at the same time are on a device, and get their values.
        if not all(tensor.is_meta for tensor in (*layer.parameters(), *layer.buffers())):
            reset(layer)

    return reset_unless_meta
