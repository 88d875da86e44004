"""Weights that a step is not to train."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """No gradient is computed for the module's parameters; gradients still flow through it.

    Example:
        >>> layer, input = nn.Linear(2, 1), torch.ones(1, 2, requires_grad=True)
        >>> with frozen(layer):
        ...     layer(input).sum().backward()
        >>> layer.weight.grad is None, input.grad is None
        (True, False)
    """
    module.requires_grad_(False)
    try:
        yield
    finally:
        module.requires_grad_(True)
