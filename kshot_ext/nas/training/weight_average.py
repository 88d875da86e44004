"""Exponential moving average of weights of which each step changes a part."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


class WeightAverage:
    """Average of the weights after each step t = 1, 2, ..., the later ones weighing more:

        average_t = d_t * average_{t-1} + (1 - d_t) * weight_t,   d_t = min(decay, (1 + t) / (10 + t))

    A supernet's step changes one path. For weights that stay as they are, n steps amount to one with the product of
    the n factors d; so only weights about to change are read, once, and the average is still exact. The factors grow
    from a small one, so that the first weights are soon forgotten. (Polyak and Juditsky, 1992; the growing factor as in
    TensorFlow's ExponentialMovingAverage.)

    Args:
        parameters: by name; the average starts with their values.
        decay: largest factor d, above 0 and below 1.

    Example:
        >>> weight = nn.Parameter(torch.zeros(1))
        >>> average = WeightAverage({"weight": weight}, decay=0.5)
        >>> for value in (8.0, 8.0, 4.0):
        ...     average.before_change([weight])
        ...     _ = weight.data.fill_(value)
        ...     average.count_step()
        >>> with average.in_place():
        ...     round(weight.item(), 3)
        5.119
        >>> weight.item()
        4.0
    """

    def __init__(self, parameters: dict[str, nn.Parameter], decay: float) -> None:
        self._parameters = parameters
        self._names = {parameter: name for name, parameter in parameters.items()}
        self._decay = decay
        self._steps = 0
        self._log_product = 0.0  # of all factors so far
        self._read_at = dict.fromkeys(parameters, 0.0)  # the log product when a weight was last read
        self._averages = {name: parameter.detach().clone() for name, parameter in parameters.items()}

    @torch.no_grad()
    def before_change(self, parameters: Iterable[nn.Parameter]) -> None:
        """Reads the weights that the next step is about to change."""
        names = [self._names[parameter] for parameter in parameters]
        for name in names:
            kept = math.exp(self._log_product - self._read_at[name])
            if kept < 1:
                self._averages[name].lerp_(self._parameters[name], 1 - kept)
                self._read_at[name] = self._log_product

    def count_step(self) -> None:
        """Ends a step, whether or not it changed anything."""
        self._steps += 1
        self._log_product += math.log(min(self._decay, (1 + self._steps) / (10 + self._steps)))

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The parameters hold their averages inside the context."""
        self.swap()
        try:
            yield
        finally:
            self.swap()

    @torch.no_grad()
    def swap(self) -> None:
        """Exchanges the parameters' values and their averages."""
        self.before_change(self._parameters.values())
        for name, parameter in self._parameters.items():
            weights = parameter.detach().clone()
            parameter.copy_(self._averages[name])
            self._averages[name].copy_(weights)

    def state_dict(self) -> dict[str, Any]:
        """All that :meth:`load_state_dict` needs to go on: tensors and plain values."""
        return {
            "steps": self._steps,
            "log_product": self._log_product,
            "read_at": dict(self._read_at),
            "averages": dict(self._averages),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes back to where :meth:`state_dict` was taken."""
        self._steps = state["steps"]
        self._log_product = state["log_product"]
        self._read_at = dict(state["read_at"])
        for name, average in self._averages.items():
            average.copy_(state["averages"][name])
