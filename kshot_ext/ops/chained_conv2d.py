"""Chains of convolutions, norms and activations, without a tensor in between: one link as one operator.

A link normalises and activates its input while it loads it, and gathers the moments of its output while it stores it.
So each convolution's raw output is written once, and nothing else is kept for the backward pass. Equations and tensor
passes: `csrc/cpu/chained_rows.h`, `benchmarks/NOTES.md`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.overrides import has_torch_function

from kshot_ext import backend, reference
from kshot_ext.ops import checks, conv_forms, plans
from kshot_ext.ops.chained_norm_act import chained_norm_act, check_norm, operator_arguments
from kshot_ext.ops.chained_operator import operator
from kshot_ext.ops.differentiable import is_recorded
from kshot_ext.ops.effective_weight import leading
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
    key: plans.Key | None = None
    plan: _Plan | None = None
    if not (
        torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()  # this line and the next are `backend.under_transform`
        or forward_ad._current_level >= 0
        or backend.override.reference
        or torch.jit.is_tracing()
        or has_torch_function((input,))  # also of modes
    ):
        try:
            traits, wrapped, kind = plans.traits, plans.is_wrapped, input.device.type
            key = (
                "chained_conv2d",
                traits(input), wrapped(input), traits(weight), wrapped(weight), traits(code), wrapped(code),
                norm is not None
                and (
                    traits(norm.mean), wrapped(norm.mean), traits(norm.variance), wrapped(norm.variance),
                    norm.weight is not None and (traits(norm.weight), wrapped(norm.weight)),
                    norm.bias is not None and (traits(norm.bias), wrapped(norm.bias)),
                    norm.activation,
                ),
                gate is None,
                f"{stride!r} {padding!r} {dilation!r} {groups!r} {out_channels!r} {moments!r}",
                torch.is_grad_enabled(),
                torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind),
                torch.backends.cudnn.allow_tf32,
            )  # fmt: skip
            plan = plans.kept.get(key)
        except (AttributeError, RuntimeError, TypeError):  # no tensor, or no norm: the checks say so
            key = None
    if plan is None:
        return _first_call(
            key, input, weight, code, stride, padding, dilation, groups, norm, gate, out_channels, moments
        )
    before = (None, None, None, None, 0.0) if norm is None else norm[:5]
    raw, mean, variance = plan.run(input, *before, plan.activation, weight, code, None, *plan.settings)
    return RawOutput(raw, mean, variance) if moments else RawOutput(raw, None, None)


class _Plan(NamedTuple):
    """What to run: `run(input, mean, variance, weight, bias, eps, activation, weight, code, gate, *settings)`."""

    run: Callable[..., tuple[Tensor, Tensor, Tensor]]
    activation: int
    settings: tuple[Any, ...]


def _first_call(
    key: plans.Key | None, input: Tensor, weight: Tensor, code: Tensor, stride: Size, padding: Size | str,
    dilation: Size, groups: int, norm: ChannelNorm | None, gate: Tensor | None, out_channels: int | None, moments: bool,
) -> RawOutput:  # fmt: skip
    """A call without a plan; keeps one if there is a `key` for it, no gate, and nothing to cast or cut."""
    given = input, weight, code
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
    settings = widths.out_channels, *lists, depthwise, moments, torch.backends.cudnn.allow_tf32
    *of_norm, activation = operator_arguments(norm)
    tensors = input, *of_norm[:4], weight, code
    unchanged = all(used is original for used, original in zip((input, weight, code), given))
    if key is not None and gate is None and unchanged and plans.are_plain(*tensors):
        run = operator.recorded if is_recorded(tensors) else operator.unrecorded
        plans.keep(key, _Plan(run, activation, settings))
    raw, mean, variance = operator.call(input, *of_norm, activation, weight, code, gate, *settings)
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


def _apart(
    input: Tensor, weight: Tensor, code: Tensor, stride: Size, padding: Size | str, dilation: Size, groups: int,
    norm: ChannelNorm | None, gate: Tensor | None, out_channels: int | None, moments: bool,
) -> RawOutput:  # fmt: skip
    """The link as a sequence of our operators, in the dtype of sums."""
    z = input.to(torch.promote_types(input.dtype, torch.float32))
    z = z if norm is None else chained_norm_act(z, norm)
    raw = kshot_conv2d(
        z, weight.to(z.dtype), code, None, stride, padding, dilation, groups, gate=gate, out_channels=out_channels
    )
    return RawOutput(raw.to(input.dtype), *(moments_of(raw) if moments else (None, None)))
