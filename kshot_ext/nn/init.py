"""The functions of `torch.nn.init` for weight dictionaries: each copy is started by itself.

`torch.nn.init.kaiming_normal_(layer.weight)` takes the copies of a K-shot layer for output channels, and works out a
wrong fan. `kshot_ext.nn.init` has every function of `torch.nn.init` that changes a tensor, with the same arguments, and
calls it for one copy after the other; and `apply_to_copies` for functions that start whole layers.

Example:
    >>> import torch
    >>> import kshot_ext
    >>> layer = kshot_ext.nn.KShotLinear(1000, 50, num_shots=4)
    >>> kshot_ext.nn.init.kaiming_normal_(layer.weight, nonlinearity="linear").std()
    tensor(0.03..., grad_fn=<StdBackward0>)
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from kshot_ext.nn.code import KShotModule

__all__ = ["apply_to_copies"]


def __getattr__(name: str) -> Callable[..., Tensor]:
    function = getattr(nn.init, name, None)
    if not name.endswith("_") or name.startswith("_") or not callable(function):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    @functools.wraps(function)
    def for_each_copy(tensor: Tensor, *arguments: Any, **named: Any) -> Tensor:
        for copy in tensor.detach():
            function(copy, *arguments, **named)
        return tensor

    return for_each_copy


def __dir__() -> list[str]:
    return [*__all__, *(name for name in dir(nn.init) if name.endswith("_") and not name.startswith("_"))]


@torch.no_grad()
def apply_to_copies(model: nn.Module, function: Callable[[nn.Module], Any]) -> nn.Module:
    """`model.apply(function)`, where the function gets plain layers in the place of K-shot ones: one for each copy.

    So a function that starts a plain model, and asks for the type of layers and the fan of their weights, starts the
    converted one as well.

    Args:
        model: any module; its parameters are changed.
        function: changes the layer that it is given.

    Returns:
        The model.

    Example:
        >>> import kshot_ext
        >>> def start(layer):
        ...     if isinstance(layer, nn.Conv2d):
        ...         nn.init.kaiming_normal_(layer.weight, mode="fan_out")
        >>> kshot = kshot_ext.convert(nn.Sequential(nn.Conv2d(3, 8, 3)), num_shots=2)
        >>> kshot = apply_to_copies(kshot, start)
    """

    def start(layer: nn.Module) -> None:
        if not isinstance(layer, KShotModule):
            function(layer)
            return
        for copy in layer.copies():
            held = {name: None if each is None else each.detach() for name, each in copy._parameters.items()}
            function(copy)
            for name, mine in held.items():
                given = copy._parameters[name]
                if mine is not None and given is not None and given.data_ptr() != mine.data_ptr():
                    mine.copy_(given)  # it was given another tensor

    return model.apply(start)
