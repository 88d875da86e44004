"""Sequences whose convolutions, batch norms and activations run as chains."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.fx import Proxy

from kshot_ext.nn.deferred import SharedImage, Value, finished, plus
from kshot_ext.nn.flow import as_given, linked, pass_through, run_outermost
from kshot_ext.nn.fused_form import Fused
from kshot_ext.nn.links import can_link
from kshot_ext.nn.watched import is_free

_FORWARD = nn.Sequential.forward


class FusedSequence(Fused):
    """Mixin of a `torch.nn.Sequential`. It looks at its layers in each call: they may be replaced, or get hooks."""

    def forward(self, input: Tensor) -> Tensor:
        if isinstance(input, Proxy):  # a graph of torch.fx holds the layers, one by one
            output: Tensor = type(self).plain_kind.forward(self, input)
        else:
            output = run_outermost(FusedSequence.run, self, input)
        return output

    def run(self, value: Value) -> Value:
        if not self.is_plain_to_see():
            output: Value = type(self).plain_kind.forward(self, as_given(value))
            return output
        layers: list[Any] = list(self._modules.values())
        passed_over = -1
        for index, layer in enumerate(layers):
            if index == passed_over:
                continue
            following = layers[index + 1] if index + 1 < len(layers) else None
            if following is not None and can_link(value, layer, following):
                value, passed_over = linked(layer, following, value), index + 1
            else:
                value = pass_through(layer, value)
        return value

    def is_plain_to_see(self) -> bool:
        return type(self).plain_kind.forward is _FORWARD  # of the class, where it may be replaced


def plus_residual(module: nn.Module, input: Tensor | SharedImage, residual: Tensor | None = None) -> Tensor:
    """`residual + module(input)`, without a tensor in between where the last layer can add it; or the module alone.

    Of an image that is shared, activation and average pool are made once for all modules that begin with them.
    """
    output = (
        type(module).run(module, input) if isinstance(module, Fused) and is_free(module) else module(finished(input))
    )
    total: Tensor = finished(output if residual is None else plus(residual, output))
    return total
