"""Average pools by a kernel of ours, where it serves; made once for all that read the same image."""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn

from kshot_ext import functional as KF
from kshot_ext.nn.deferred import SharedImage, Value, finished
from kshot_ext.nn.fused_form import Fused
from kshot_ext.ops.checks import DTYPES
from kshot_ext.ops.memory_order import has_channels_innermost

_SETTINGS: Callable[[nn.Module], tuple[Any, ...]] = attrgetter(
    "kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override"
)


class FusedAvgPool(Fused):
    """Mixin of a `torch.nn.AvgPool2d`. Compilers and images in other formats meet the plain layer."""

    def forward(self, input: Any) -> Tensor:
        serves = isinstance(input, Tensor) and input.dim() == 4 and input.dtype in DTYPES
        if not serves or torch.compiler.is_compiling() or not has_channels_innermost(input):
            output: Tensor = type(self).plain_kind.forward(self, input)
            return output
        return KF.avg_pool2d(input, *self._settings())

    def run(self, value: Value) -> Value:
        if isinstance(value, SharedImage) and value.activation == "identity":
            return value.made_once((nn.AvgPool2d, *self._settings()), self.forward)
        return self.forward(finished(value))

    def _settings(self) -> tuple[Any, ...]:
        return _SETTINGS(self)


def is_plain_pool(layer: nn.Module) -> bool:
    """Whether a layer is exactly torch's average pool, with torch's forward."""
    return type(layer) is nn.AvgPool2d and "forward" not in vars(layer)
