"""Evaluation mode for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluation_mode(network: nn.Module) -> Iterator[None]:
    """Inside the context all modules are in evaluation mode; afterwards each is in its own mode again.

    A supernet's path needs that: it is a new module around parts of the supernet, whose mode may be another.

    Example:
        >>> network = nn.Sequential(nn.Dropout().eval())
        >>> with evaluation_mode(network):
        ...     network.training
        False
        >>> network.training, network[0].training
        (True, False)
    """
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        network.train(modes[0][1])  # for modules that do more when they change mode
        for module, mode in modes:
            module.training = mode
