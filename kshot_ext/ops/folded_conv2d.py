"""A convolution whose norm has known moments, as in evaluation: the norm is folded into weight and bias."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from kshot_ext import backend, reference
from kshot_ext.ops import checks, conv_forms
from kshot_ext.ops.chained_conv2d import chained_conv2d
from kshot_ext.ops.chained_norm_act import chained_norm_act, check_norm
from kshot_ext.ops.differentiable import is_recorded, not_differentiable
from kshot_ext.ops.fakes import register_fake
from kshot_ext.ops.window import Window
from kshot_ext.reference.batch_norm_act import ACTIVATIONS
from kshot_ext.reference.chained_conv2d import ChannelNorm
from kshot_ext.widths import active_widths

Size = int | Sequence[int]


def folded_conv2d(
    input: Tensor,
    weight: Tensor,
    code: Tensor,
    norm: ChannelNorm,
    stride: Size = 1,
    padding: Size | str = 0,
    dilation: Size = 1,
    groups: int = 1,
    *,
    out_channels: int | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    """Convolve, normalise by known moments, add a residual, activate.

        raw[n, o] = sum_i (sum_k code[k] * weight[k, o, i]) (*) input[n, i]
        output = norm.activation((raw - norm.mean) / sqrt(norm.variance + eps) * norm.weight + norm.bias + residual)

    Where no gradient is asked for, the norm is folded into weight and bias and the activation is applied as the output
    is stored: one convolution, and no tensor is normalised. Otherwise this is `chained_conv2d` and `chained_norm_act`.

    Args:
        input: `[N, C_in', H, W]`, best in channels_last.
        weight: dictionary `[K, C_out, C_in/groups, KH, KW]`; it may be kept in float32 beside a half precision input.
        code: `[K]` for the whole batch, or `[N, K]`.
        norm: of the convolution's output; its mean and variance are `[C_out']`, such as running statistics.
        stride, padding, dilation, groups: as in `torch.nn.functional.conv2d`; padding may be "same" or "valid".
        out_channels: output width C_out'; default: all that the input width allows.
        residual: `[N, C_out', H', W']`, in the input's dtype; default: none.

    Returns:
        `[N, C_out', H', W']` in the input's dtype.

    Gradients:
        To `input`, `weight`, `code`, `residual` and the tensors of `norm`.

    Raises:
        TypeError, ValueError: on a wrong dtype, rank, size, width or device, naming the argument.

    Example:
        >>> from kshot_ext.functional import ChannelNorm
        >>> weight, code = torch.ones(2, 1, 1, 1, 1), torch.tensor([0.5, 0.5])
        >>> norm = ChannelNorm(torch.tensor([1.0]), torch.tensor([4.0]), eps=0.0, activation="relu")
        >>> folded_conv2d(torch.tensor([-3.0, 5.0]).reshape(2, 1, 1, 1), weight, code, norm).flatten()
        tensor([0., 2.])
    """
    checks.check_tensor("input", input, "[N, C_in, H, W]", (4,))
    checks.check_dictionary(weight, "[K, C_out, C_in/groups, KH, KW]", (5,))
    checks.check_companion("weight", weight, "input", input)
    checks.check_code(code, weight, input.shape[0])
    widths = active_widths(input.shape[1], (weight.shape[1], weight.shape[2]), groups, out_channels)
    window = Window.of_arguments(weight.shape[3:], stride, padding, dilation).cut_to(input.shape[2:])
    if backend.kernels_for(input.device) is None:
        return reference.folded_conv2d(
            input, weight, code, norm, stride, padding, dilation, groups, out_channels=out_channels, residual=residual
        )
    depthwise = conv_forms.is_depthwise(weight, widths)
    if not _folds(input, weight, code, norm, residual, depthwise, widths.groups):
        raw = chained_conv2d(
            input, weight, code, stride, padding, dilation, groups, out_channels=out_channels, moments=False
        ).raw
        return chained_norm_act(raw, norm, residual)
    output_size = window.output_size(input.shape[2:])
    check_norm(norm, input, widths.out_channels, "the output")
    if residual is not None:
        checks.check_tensor("residual", residual, "like the output", (4,))
        expected = [input.shape[0], widths.out_channels, *output_size]
        if list(residual.shape) != expected:
            raise ValueError(f"residual must have shape {expected} like the output, got {list(residual.shape)}")
        checks.check_companion("residual", residual, "input", input)
    if torch.is_autocast_enabled(input.device.type):
        input = input.to(torch.get_autocast_dtype(input.device.type))
    _, *lists = window.as_lists()
    activation = norm.activation if residual is None else "identity"
    output: Tensor = _operator(
        conv_forms.active(input, widths), weight.float(), code.float(), *norm[:5], list(ACTIVATIONS).index(activation),
        widths.out_channels, *lists, depthwise,
    )  # fmt: skip
    if residual is None:
        return output
    # Of half types neither may be rounded to the other's.
    sum_dtype = torch.promote_types(output.dtype, residual.dtype)
    added = output.add_(residual) if output.dtype == sum_dtype else output + residual
    return _activated(added, norm.activation).to(input.dtype)


def _activated(x: Tensor, activation: str) -> Tensor:
    return x if activation == "identity" else ACTIVATIONS[activation](x, inplace=True)


def leaves_no_record(operands: Iterable[Tensor | None]) -> bool:
    """Whether neither autograd records a call with these operands, nor a trace that autograd may run through later.

    torch.jit.trace checks its graph by one that it makes without gradients, and both must be the same.
    """
    given = tuple(operands)
    traced = torch.jit.is_tracing() and any(each is not None and each.requires_grad for each in given)
    return not (traced or is_recorded(given))


def _folds(
    input: Tensor,
    weight: Tensor,
    code: Tensor,
    norm: ChannelNorm,
    residual: Tensor | None,
    depthwise: bool,
    groups: int,
) -> bool:
    """Whether one operator serves: the CPU's, where nothing is recorded, and a dense weight is one for the batch."""
    if backend.kernels_for(input.device) != "cpu" or torch.float64 in (input.dtype, weight.dtype):
        return False
    if not leaves_no_record((input, weight, code, *norm[:4], residual)):
        return False
    per_sample = any(values is not None and values.dim() == 2 for values in norm[2:4])
    if depthwise:
        return code.dim() == 2 or not per_sample
    return groups == 1 and code.dim() == 1 and not per_sample


def _fake(
    input: Tensor, weight: Tensor, code: Tensor, mean: Tensor | None, variance: Tensor | None,
    norm_weight: Tensor | None, norm_bias: Tensor | None, eps: float, activation: int, out_channels: int,
    stride: list[int], padding: list[int], dilation: list[int], depthwise: bool,
) -> Tensor:  # fmt: skip
    size = Window.of_lists(weight.shape[3:], stride, padding, dilation).output_size(input.shape[2:])
    shape = (input.shape[0], out_channels, *size)
    return torch.empty(shape, dtype=input.dtype, device=input.device, memory_format=torch.channels_last)


_operator = not_differentiable("folded_conv2d")


@backend.on_load
def _register() -> None:
    register_fake("folded_conv2d", _fake)
