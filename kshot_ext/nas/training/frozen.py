"""Weights that a step is not to train."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """No gradient is computed for the module's parameters; gradients still flow through it.

    Example:
        >>> layer = nn.Linear(2, 1)
        >>> with frozen(layer):
        ...     layer.weight.requires_grad
        False
        >>> layer.weight.requires_grad
        True
    """
    module.requires_grad_(False)
    try:
        yield
    finally:
        module.requires_grad_(True)
