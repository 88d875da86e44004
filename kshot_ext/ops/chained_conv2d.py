"""Chains of convolutions, norms and activations, without a tensor in between: one link as one operator.

A link normalises and activates its input while it loads it, and gathers the moments of its output while it stores it.
So each convolution's raw output is written once, and nothing else is kept for the backward pass. Equations and tensor
passes: `csrc/cpu/chained_rows.h`, `benchmarks/NOTES.md`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kshot_ext import backend, reference
from kshot_ext.ops import checks, conv_forms
from kshot_ext.ops.chained_norm_act import chained_norm_act, check_norm, gradient_like, operator_arguments
from kshot_ext.ops.compact_gradient import CompactGradient
from kshot_ext.ops.differentiable import below_autograd, differentiable, not_differentiable
from kshot_ext.ops.effective_weight import fake_effective_weight, leading
from kshot_ext.ops.fakes import register_fake
from kshot_ext.ops.gradient_slot import OwnedParameter, takes_compact_gradient
from kshot_ext.ops.kshot_conv import kshot_conv2d
from kshot_ext.ops.window import Window
from kshot_ext.reference.chained_conv2d import ChannelNorm, RawOutput, moments_of
from kshot_ext.widths import ActiveWidths, active_widths

Size = int | Sequence[int]


def chained_conv2d(
    input: Tensor,
    weight: Tensor,
    code: Tensor,
    stride: Size = 1,
    padding: Size | str = 0,
    dilation: Size = 1,
    groups: int = 1,
    *,
    norm: ChannelNorm | None = None,
    gate: Tensor | None = None,
    out_channels: int | None = None,
    moments: bool = True,
) -> RawOutput:
    """One link of a chain: normalise and activate the input, convolve, gather the moments of the output.

        z = norm.activation((input - norm.mean) / sqrt(norm.variance + eps) * norm.weight + norm.bias)
        raw[n, o] = gate[o] * sum_i (sum_k code[k] * weight[k, o, i]) (*) z[n, i]
        mean[o], variance[o] = moments of raw[:, o], the variance biased

    z is never stored. A norm takes the moments of the link before; gradients go back through them, so that a chain
    equals the plain sequence of convolutions, batch norms and activations. `chained_norm_act` ends it.

    Args:
        input: `[N, C_in', H, W]`: the raw output of the link before, or with `norm=None` the chain's input. Best in
            channels_last.
        weight: dictionary `[K, C_out, C_in/groups, KH, KW]`; it may be kept in float32 beside a half precision input.
        code: `[K]` for the whole batch, or `[N, K]`.
        stride, padding, dilation, groups: as in `torch.nn.functional.conv2d`; padding may be "same" or "valid".
        norm: what is applied to the input; default: nothing.
        gate: `[C_out]`, or its active part; default: no gate.
        out_channels: output width C_out'; default: all that the input width allows.
        moments: whether to gather the output's moments; default True.

    Returns:
        `RawOutput(raw, mean, variance)`: `[N, C_out', H', W']` in the input's dtype; `[C_out']` in the dtype of sums,
        taken before half types are rounded, or None.

    Gradients:
        To `input`, `weight`, `code`, `gate` and the tensors of `norm`, from all three results. A second derivative
        needs the reference backend.

    Raises:
        TypeError, ValueError: on a wrong dtype, rank, size, width or device, naming the argument.

    The kernels take float32 and half types, dense and depthwise weights, and for dense weights one code for the batch.
    CUDA's take depthwise kernels of 3, 5 and 7 with strides of 1 and 2, the latter without dilation, and before dense
    strides no norm per sample. Other calls take the plain sequence of our operators.

    Example:
        >>> from kshot_ext.functional import ChannelNorm
        >>> expand, project = torch.randn(4, 24, 8, 1, 1), torch.randn(4, 8, 24, 1, 1)
        >>> code = torch.full((4,), 0.25)
        >>> raw, mean, variance = chained_conv2d(torch.randn(2, 8, 5, 5), expand, code)
        >>> chained_conv2d(raw, project, code, norm=ChannelNorm(mean, variance, activation="relu")).raw.shape
        torch.Size([2, 8, 5, 5])

    Paper: batch norm, arXiv 1502.03167; cuDNN fuses scale, bias, activation, convolution and statistics likewise.
    """
    checks.check_tensor("input", input, "[N, C_in, H, W]", (4,))
    checks.check_dictionary(weight, "[K, C_out, C_in/groups, KH, KW]", (5,))
    checks.check_companion("weight", weight, "input", input)
    checks.check_code(code, weight, input.shape[0])
    widths = active_widths(input.shape[1], (weight.shape[1], weight.shape[2]), groups, out_channels)
    window = Window.of_arguments(weight.shape[3:], stride, padding, dilation).cut_to(input.shape[2:])
    if norm is not None:
        check_norm(norm, input)
    if gate is not None:
        checks.check_tensor("gate", gate, "[C_out]", (1,))
        checks.check_gate(gate, weight, weight.shape[1], widths.out_channels)
    if backend.kernels_for(input.device) is None:
        return reference.chained_conv2d(
            input, weight, code, stride, padding, dilation, groups,
            norm=norm, gate=gate, out_channels=out_channels, moments=moments,
        )  # fmt: skip
    device = input.device.type
    if torch.is_autocast_enabled(device) and input.dtype != torch.float64:
        input = input.to(torch.get_autocast_dtype(device))
    if not _has_kernel(input, code, widths, weight, window, norm):
        with torch.autocast(device, enabled=False):
            return _apart(input, weight, code, stride, padding, dilation, groups, norm, gate, out_channels, moments)
    input = conv_forms.active(input, widths)
    code = code.float()
    if backend.kernels_for(input.device) == "cpu":
        weight = weight.float()  # a mixed weight is not rounded there, nor are the moments it makes
    gate = None if gate is None else leading(gate, widths.out_channels).float()
    depthwise = conv_forms.is_depthwise(weight, widths)
    _, *lists = window.as_lists()
    raw, mean, variance = _operator.call(
        input, *operator_arguments(norm), weight, code, gate, widths.out_channels, *lists, depthwise, moments,
        torch.backends.cudnn.allow_tf32,
    )  # fmt: skip
    return RawOutput(raw, mean, variance) if moments else RawOutput(raw, None, None)


def _has_kernel(
    input: Tensor, code: Tensor, widths: ActiveWidths, weight: Tensor, window: Window, norm: ChannelNorm | None
) -> bool:
    if torch.float64 in (input.dtype, weight.dtype):
        return False
    depthwise, on_cuda = conv_forms.is_depthwise(weight, widths), backend.kernels_for(input.device) == "cuda"
    if depthwise:
        return not on_cuda or _cuda_serves_depthwise(window)
    if widths.groups != 1 or code.dim() != 1:
        return False
    per_sample = norm is not None and any(p is not None and p.dim() == 2 for p in norm[2:4])
    return not (on_cuda and per_sample and max(window.stride) > 1)  # sums of samples need one walk over each


def _cuda_serves_depthwise(window: Window) -> bool:
    """Whether CUDA's depthwise links take a window: those whose tiles fit in shared memory, forward and backward."""
    (kernel, *kernels), (stride, *strides), dilation = window.kernel, window.stride, window.dilation
    if kernel not in (3, 5, 7) or stride not in (1, 2) or kernels != [kernel] or strides != [stride]:
        return False
    return max(dilation) == 1 or (stride == 1 and max(dilation) * (kernel - 1) <= 8)


def prefers_chain(input: Tensor, weight: Tensor, code: Tensor | None) -> bool:
    """Whether a link is expected to be faster than convolution and norm one after the other, as NOTES.md measures it.

    Args:
        input: the link's, raw or not, `[N, C, H, W]`.
        weight: depthwise, or of a 1x1 convolution; plain or a dictionary.
        code: None for a plain weight.
    """
    if not serves_chains(input) or (weight.dtype == torch.float64) != (input.dtype == torch.float64):
        return False
    depthwise = weight.shape[-3] == 1
    return depthwise or code is None or code.dim() == 1 or backend.kernels_for(input.device) is None


def serves_chains(input: Tensor) -> bool:
    """Whether links of chains have kernels for an input like this, or the reference stands for them.

    Function transforms take the layers, which know how to keep statistics under them.
    """
    if backend.under_transform():
        return False
    kernels = backend.kernels_for(input.device)
    return kernels is None or (kernels == "cpu" and input.dtype != torch.float64)


def _apart(input, weight, code, stride, padding, dilation, groups, norm, gate, out_channels, moments) -> RawOutput:
    """The link as a sequence of our operators, in the dtype of sums."""
    z = input.to(torch.promote_types(input.dtype, torch.float32))
    z = z if norm is None else chained_norm_act(z, norm)
    raw = kshot_conv2d(
        z, weight.to(z.dtype), code, None, stride, padding, dilation, groups, gate=gate, out_channels=out_channels
    )
    return RawOutput(raw.to(input.dtype), *(moments_of(raw) if moments else (None, None)))


def _fake(
    input, mean, variance, norm_weight, norm_bias, eps, activation, weight, code, gate, out_channels, stride, padding,
    dilation, depthwise, moments, allow_tf32=False,
):  # fmt: skip
    size = Window(weight.shape[3:], stride, padding, dilation).output_size(input.shape[2:])
    shape = (input.shape[0], out_channels, *size)
    raw = torch.empty(shape, dtype=input.dtype, device=input.device, memory_format=torch.channels_last)
    statistics = [input.new_empty(out_channels if moments else 0, dtype=torch.float32) for _ in range(2)]
    return raw, *statistics


def _setup_context(ctx, inputs, output) -> None:
    input, mean, variance, norm_weight, norm_bias, ctx.eps, ctx.activation, weight, code, gate, _, *rest = inputs
    *ctx.window_and_form, moments, ctx.allow_tf32 = rest
    raw, out_mean, out_variance = output
    ctx.owned = weight if isinstance(weight, OwnedParameter) and code.dim() == 1 else None
    ctx.save_for_backward(input, mean, variance, norm_weight, norm_bias, weight, code, gate, raw, out_mean)
    ctx.set_materialize_grads(False)
    if not moments:
        ctx.mark_non_differentiable(out_mean, out_variance)


def _forward(ctx, *inputs, output=None):
    if output is None:
        with below_autograd():
            output = torch.ops.kshot_ext.chained_conv2d(*inputs)
    _setup_context(ctx, inputs, output)
    return output


def _backward(ctx, grad, grad_mean, grad_variance):
    if grad is None and grad_mean is None and grad_variance is None:
        return (None,) * 17
    input, mean, variance, norm_weight, norm_bias, weight, code, gate, raw, out_mean = ctx.saved_tensors
    if grad is None:  # only the moments are used
        grad = torch.zeros_like(raw)
    needs = ctx.needs_input_grad
    need_weight, need_code, need_gate = needs[7:10]
    compact = need_weight and takes_compact_gradient(ctx.owned, ctx)
    norm = mean, variance, norm_weight, norm_bias
    results = _backward_operator(
        grad, grad_mean, grad_variance, input, *norm, ctx.eps, ctx.activation, weight, code, gate, raw, out_mean,
        *ctx.window_and_form, any(needs[:5]), compact, need_weight and not compact, need_code, need_gate,
        ctx.allow_tf32,
    )  # fmt: skip
    grad_input, *of_norm, effective, grad_weight, grad_code, grad_gate = results
    return (
        grad_input if needs[0] else None,
        *(gradient_like(g, p) if need else None for g, p, need in zip(of_norm, norm, needs[1:5])),
        None,
        None,
        (CompactGradient.of_use(weight, code, gate, effective) if compact else grad_weight) if need_weight else None,
        grad_code if need_code else None,
        grad_gate if need_gate else None,
        *(None,) * 7,
    )


def _fake_backward(
    grad, grad_mean, grad_variance, input, mean, variance, norm_weight, norm_bias, eps, activation, weight, code, gate,
    output, out_mean, stride, padding, dilation, depthwise,
    need_input, need_effective, need_weight, need_code, need_gate, allow_tf32=False,
):  # fmt: skip
    def none(like: Tensor = code):  # a tensor of its own each time: results share no memory
        return like.new_empty(0)

    channels = input.shape[1]
    rows = input.shape[0] if any(p is not None and p.dim() == 2 for p in (norm_weight, norm_bias)) else 1
    has_norm = need_input and mean is not None
    widths = (grad.shape[1], 1 if depthwise else channels)
    return (
        torch.empty_like(input, memory_format=torch.channels_last) if need_input else none(input),
        *(code.new_empty(channels) if has_norm else none(input) for _ in range(2)),
        *(code.new_empty(rows, channels) if has_norm else none(input) for _ in range(2)),
        fake_effective_weight(weight, code, gate, *widths) if need_effective else none(),
        torch.empty_like(weight) if need_weight else none(),
        torch.empty_like(code, memory_format=torch.contiguous_format) if need_code else none(),
        torch.empty_like(gate, memory_format=torch.contiguous_format) if need_gate else none(),
    )


_operator = differentiable("chained_conv2d", _forward, _backward)
_backward_operator = not_differentiable("chained_conv2d_backward")


@backend.on_load
def _register() -> None:
    register_fake("chained_conv2d", _fake)
    register_fake("chained_conv2d_backward", _fake_backward)
