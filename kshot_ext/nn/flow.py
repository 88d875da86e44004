"""How values that wait (`nn/deferred.py`) pass through the layers of a fused container."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from kshot_ext.nn.batch_norm import ACTIVATION_NAMES
from kshot_ext.nn.deferred import Value, WaitingNorm, finished, waits
from kshot_ext.nn.fused_form import TakesValues
from kshot_ext.nn.links import can_wait, is_norm_act, link
from kshot_ext.nn.side_effects import may_do_anything
from kshot_ext.nn.watched import is_free
from kshot_ext.ops.memory_order import has_channels_innermost


def pass_through(layer: nn.Module, value: Value) -> Value:
    """What a layer makes of a value: the call itself, unless the layer can take it, or leave it, waiting."""
    if isinstance(layer, TakesValues) and is_free(layer):
        return type(layer).run(layer, value)  # what the user calls `run` on a module is not ours
    if can_wait(layer):
        return _behind_norm(layer, WaitingNorm(finished(value), layer))
    if waits(value) and is_free(layer):
        if type(layer) is nn.Identity:
            return value
        activation = ACTIVATION_NAMES.get(type(layer))
        if activation is not None and value.activation == "identity":
            return value.with_activation(activation)
    output: Tensor = layer(as_given(value) if sees_format(layer) else finished(value))
    return output


def linked(conv: nn.Module, norm: nn.Module, value: Value) -> Value:
    """`norm(conv(value))` as a link; see `can_link`."""
    return _behind_norm(norm, link(value, conv, norm))


def _behind_norm(layer: nn.Module, value: Value) -> Value:
    """The value of a norm with the activation that it holds, if it holds one."""
    activation = layer._modules.get("act") if is_norm_act(layer) else None
    return value if activation is None else pass_through(activation, value)


class _Given(threading.local):
    """What the outermost container of a thread was given."""

    contiguous = False  # images, of which plain layers would make contiguous ones


_given = _Given()


def run_outermost(run: Callable[[Any, Any], Value], module: nn.Module, input: Any) -> Any:
    """`run(module, input)`, finished, and contiguous if the images are: chains put out channels_last.

    Images of one channel, or of one pixel, are both, and leave it as it is.
    """
    images = isinstance(input, Tensor) and input.dim() > 2 and input.is_contiguous()
    contiguous = images and not has_channels_innermost(input)
    if torch.compiler.is_compiling():
        output = finished(run(module, input))
    else:
        before, _given.contiguous = _given.contiguous, contiguous
        try:
            output = finished(run(module, input))
        finally:
            _given.contiguous = before
    return _contiguous(output) if contiguous else output


def as_given(value: Any) -> Any:
    """What code that may look at it finds: a tensor, in the memory format that plain layers would have left it in."""
    value = finished(value)
    return _contiguous(value) if _given.contiguous else value


def sees_format(layer: nn.Module) -> bool:
    """Whether what a layer does may depend on the memory format: unknown code may take views, and dropout draws."""
    if not _given.contiguous:
        return False
    return any(may_do_anything(module) or isinstance(module, _DropoutNd) for module in layer.modules())


def _contiguous(value: Any) -> Any:
    images = isinstance(value, Tensor) and value.dim() == 4 and has_channels_innermost(value)
    return value.contiguous() if images else value
