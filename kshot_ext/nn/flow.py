"""How values that wait (`nn/deferred.py`) pass through the layers of a fused container."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from kshot_ext.nn.batch_norm import ACTIVATION_NAMES
from kshot_ext.nn.deferred import Value, WaitingNorm, finished, waits
from kshot_ext.nn.fused_form import TakesValues
from kshot_ext.nn.links import can_wait, is_norm_act, link
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
    output: Tensor = layer(finished(value))
    return output


def linked(conv: nn.Module, norm: nn.Module, value: Value) -> Value:
    """`norm(conv(value))` as a link; see `can_link`."""
    return _behind_norm(norm, link(value, conv, norm))


def _behind_norm(layer: nn.Module, value: Value) -> Value:
    """The value of a norm with the activation that it holds, if it holds one."""
    activation = layer._modules.get("act") if is_norm_act(layer) else None
    return value if activation is None else pass_through(activation, value)


def in_format_of(input: Any, output: Any) -> Any:
    """The output, contiguous if the input of the outermost container is: chains put out channels_last.

    Images of one channel, or of one pixel, are both, and leave it as it is.
    """
    if not (isinstance(output, Tensor) and output.dim() == 4 and isinstance(input, Tensor)):
        return output
    differs = input.is_contiguous() and not has_channels_innermost(input) and has_channels_innermost(output)
    return output.contiguous() if differs else output
