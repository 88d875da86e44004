"""The fused form: mixing and convolution as one operator of ours, dense or depthwise, forward and backward.

"Fused" says that one call does both. Whether one kernel does depends: CUDA's mix while they convolve, and so do the
CPU's with a dense weight per sample; otherwise the CPU mixes first, into a weight that stays in its caches.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kshot_ext import backend
from kshot_ext.ops.compact_gradient import CompactGradient
from kshot_ext.ops.differentiable import below_autograd, differentiable, not_differentiable
from kshot_ext.ops.effective_weight import fake_effective_weight
from kshot_ext.ops.fakes import register_fake
from kshot_ext.ops.gradient_slot import OwnedParameter, takes_compact_gradient
from kshot_ext.ops.kernel_names import named, profiling
from kshot_ext.ops.recomputed import require_same_code
from kshot_ext.ops.window import Window


def fused_conv2d(
    input: Tensor,
    weight: Tensor,
    code: Tensor,
    gate: Tensor | None,
    bias: Tensor | None,
    out_channels: int,
    window: Window,
    depthwise: bool,
) -> Tensor:
    """Mix a weight, gate it and convolve with it, in one call.

        output[n, o] = bias[n, o] + sum_i (gate[n, o] * sum_k code[n, k] * weight[k, o, i]) (*) input[n, i]

    On CUDA the mixed weight exists only tile by tile, in shared memory; on the CPU so do dense weights per sample.

    Args:
        input: `[N, C_in', H, W]`; depthwise of any dtype, dense of float32, on CUDA also bfloat16 and float16. Best in
            channels_last; CUDA's depthwise kernels take both memory formats.
        weight: dictionary `[K, C_out, C_in/groups, KH, KW]`, of which the leading channels are used. Best in the
            input's dtype, and dense ones with their input channels innermost: of others the part in use is copied.
        code: `[K]`, `[N, K]` or, on the CPU, `[N, K, KH, KW]`, of the sum type.
        gate: `[C_out']`, with a code per sample also `[N, C_out']`, of the sum type; or None. A dense weight per
            sample takes none.
        bias: `[C_out']` or `[N, C_out']`, mixed and gated; or None.
        out_channels: C_out'.
        window: stride, padding and dilation (the kernel size is the weight's).
        depthwise: one input channel per output channel; otherwise all of them.

    Returns:
        `[N, C_out', H', W']`; in channels_last, unless CUDA's depthwise kernels took a contiguous input.

    Gradients:
        To `input`, `weight`, `code`, `gate` and `bias`; deterministic. float32 products are made in tf32 where
        `torch.backends.cudnn.allow_tf32` says so, as in torch's own convolutions.
    """
    if gate is not None and not depthwise and code.dim() > 1:
        raise ValueError("a dense weight per sample takes no gate: gate the output")
    output: Tensor = operator.call(input, weight, code, gate, bias, *settings(out_channels, window, depthwise))
    return output


def settings(out_channels: int, window: Window, depthwise: bool) -> tuple[Any, ...]:
    """The operator's arguments after its operands."""
    _, *lists = window.as_lists()
    return out_channels, *lists, depthwise, torch.backends.cudnn.allow_tf32


def memory_format(input: Tensor, depthwise: bool) -> torch.memory_format:
    """That of the output."""
    both = depthwise and input.device.type == "cuda"
    channels_last = not both or input.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if channels_last else torch.contiguous_format


def _fake(
    input: Tensor, weight: Tensor, code: Tensor, gate: Tensor | None, bias: Tensor | None, out_channels: int,
    stride: list[int], padding: list[int], dilation: list[int], depthwise: bool, allow_tf32: bool,
) -> Tensor:  # fmt: skip
    size = Window.of_lists(weight.shape[3:], stride, padding, dilation).output_size(input.shape[2:])
    shape = (input.shape[0], out_channels, *size)
    return torch.empty(shape, dtype=input.dtype, device=input.device, memory_format=memory_format(input, depthwise))


def _forward(ctx: Any, *inputs: Any, output: Any = None) -> Any:
    if output is None:
        with below_autograd():
            output = (named if profiling() else torch.ops.kshot_ext).fused_conv2d(*inputs)
    input, weight, code, gate, bias, _, *ctx.window_and_form = inputs
    ctx.bias_rank, ctx.bias_dtype = (None, None) if bias is None else (bias.dim(), bias.dtype)
    ctx.owned = weight if isinstance(weight, OwnedParameter) and code.dim() == 1 else None
    ctx.code = code
    ctx.save_for_backward(input, weight, code, gate)
    return output


def _backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    input, weight, code, gate = ctx.saved_tensors
    if code is not ctx.code:
        require_same_code(ctx.code, code)
    need_input, need_weight, need_code, need_gate, need_bias = ctx.needs_input_grad[:5]
    compact = need_weight and takes_compact_gradient(ctx.owned, ctx)
    needs = need_input, compact, need_weight and not compact, need_code, need_gate
    grad_input, effective, grad_weight, grad_code, grad_gate = _backward_operator(
        grad, input, weight, code, gate, *ctx.window_and_form, *needs
    )
    if compact:
        grad_weight = CompactGradient.of_use(weight, code, gate, effective)
    grad_bias = None
    if need_bias:
        over = (0, 2, 3) if ctx.bias_rank == 1 else (2, 3)
        grad_bias = grad.sum(over, dtype=code.dtype).to(ctx.bias_dtype)
    return (
        grad_input if need_input else None,
        grad_weight if need_weight else None,
        grad_code if need_code else None,
        grad_gate if need_gate else None,
        grad_bias,
        *(None,) * 6,
    )


def _fake_backward(
    grad: Tensor, input: Tensor, weight: Tensor, code: Tensor, gate: Tensor | None, stride: list[int],
    padding: list[int], dilation: list[int], depthwise: bool, allow_tf32: bool, need_input: bool, need_effective: bool,
    need_weight: bool, need_code: bool, need_gate: bool,
) -> tuple[Tensor, ...]:  # fmt: skip
    def none() -> Tensor:  # a tensor of its own each time: results share no memory
        return code.new_empty(0)

    widths = (grad.shape[1], 1 if depthwise else input.shape[1])
    return (
        torch.empty_like(input, memory_format=memory_format(input, depthwise)) if need_input else none(),
        fake_effective_weight(weight, code, gate, *widths) if need_effective else none(),
        torch.empty_like(weight) if need_weight else none(),
        torch.empty_like(code, memory_format=torch.contiguous_format) if need_code else none(),
        torch.empty_like(gate, memory_format=torch.contiguous_format) if gate is not None and need_gate else none(),
    )


operator = differentiable("fused_conv2d", _forward, _backward)
_backward_operator = not_differentiable("fused_conv2d_backward")


@backend.on_load
def _register() -> None:
    register_fake("fused_conv2d", _fake)
    register_fake("fused_conv2d_backward", _fake_backward)
