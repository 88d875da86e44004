"""Once-for-all's elastic inverted residuals as chains, across the sequences that they are made of."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from kshot_ext.nn.deferred import Value
from kshot_ext.nn.flow import pass_through, run_outermost
from kshot_ext.nn.fused_form import Fused

_KIND = ("elastic_nn.modules.dynamic_layers", "DynamicMBConvLayer")  # of a library that need not be installed


class FusedElasticBlock(Fused):
    """Mixin of `DynamicMBConvLayer`, whose forward sets widths and kernel size of its parts and then runs them in turn.

    `program_of` cannot follow it, as each call sets other attributes.
    """

    inverted_bottleneck: Any
    depth_conv: Any
    point_linear: Any
    active_middle_channel: Any
    active_kernel_size: int
    active_out_channel: int

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = run_outermost(FusedElasticBlock.run, self, x)
        return output

    def run(self, value: Value) -> Value:
        expand, depthwise, project = self.inverted_bottleneck, self.depth_conv, self.point_linear
        if expand is not None:
            expand.conv.active_out_channel = self.active_middle_channel(value.shape[1])
        depthwise.conv.active_kernel_size = self.active_kernel_size
        project.conv.active_out_channel = self.active_out_channel
        for part in (expand, depthwise, project):
            value = value if part is None else pass_through(part, value)
        return value


def is_elastic_block(module: nn.Module) -> bool:
    """Whether a module is one of the library's own blocks, and not a subclass of it."""
    kind = type(module)
    if isinstance(module, Fused) or "forward" in vars(module):
        return False
    return kind.__module__.endswith(_KIND[0]) and kind.__name__ == _KIND[1] and hasattr(kind, "active_middle_channel")
