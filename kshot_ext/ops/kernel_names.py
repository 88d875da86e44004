"""Names in torch's profiler for the kernels that one operator chooses among.

torch names an operator; `kshot_ext::fused_conv2d` is four kernels. While a profiler runs, a call of such an operator is
a step `kshot_ext.fused_conv2d [depthwise_conv2d]` around it, forward and backward.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

# Every call asks whether a profiler runs, so it is a function of torch's; no public name tells.
profiling: Callable[[], bool] = getattr(torch.autograd, "_profiler_enabled", lambda: False)


def _of_convolution(image: Tensor, weight: Tensor, code: Tensor, padding: list[int], depthwise: bool) -> str:
    if depthwise:
        return "depthwise_conv2d"
    if code.dim() == 1:
        return "dense_conv2d"
    single = image.device.type == "cpu" and {*image.shape[2:], *weight.shape[3:]} == {1} and not any(padding)
    return "stacked_linear" if single else "per_sample_conv2d"


def _of_link(depthwise: bool) -> str:
    return "chained_depthwise" if depthwise else "chained_dense"


_NAMES: dict[str, Callable[..., str]] = {
    "fused_conv2d": lambda input, weight, code, gate, bias, out_channels, stride, padding, dilation, depthwise, *_: (
        _of_convolution(input, weight, code, padding, depthwise)
    ),
    "fused_conv2d_backward": lambda grad, input, weight, code, gate, stride, padding, dilation, depthwise, *_: (
        _of_convolution(input, weight, code, padding, depthwise)
    ),
    "folded_conv2d": lambda *arguments: "depthwise_conv2d" if arguments[-1] else "chained_dense",
    "chained_conv2d": lambda *arguments: _of_link(arguments[14]),
    "chained_conv2d_backward": lambda *arguments: _of_link(arguments[18]),
}


class _Named:
    """`torch.ops.kshot_ext` with a step of the profiler around operators that choose among kernels."""

    def __getattr__(self, operator_name: str) -> Callable[..., Any]:
        operator: Callable[..., Any] = getattr(torch.ops.kshot_ext, operator_name)
        name_of = _NAMES.get(operator_name)
        if name_of is None:
            return operator

        def run(*inputs: Any) -> Any:
            with torch.profiler.record_function(f"kshot_ext.{operator_name} [{name_of(*inputs)}]"):
                return operator(*inputs)

        return run


named = _Named()
