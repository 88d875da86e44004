"""Convolution whose groups are given by gates: mix, mask, convolve."""

from __future__ import annotations

from torch import Tensor

from kshot_ext import backend, reference
from kshot_ext.ops import conv_forms
from kshot_ext.ops.checks import check_code
from kshot_ext.ops.conv_forms import ConvCall
from kshot_ext.ops.dynamic_group_weight import check_group_gates
from kshot_ext.ops.kshot_conv import DIMENSIONS, Size, checked


def dynamic_group_conv2d(
    input: Tensor,
    weight: Tensor,
    code: Tensor,
    group_gates: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Size | str = 0,
    dilation: Size = 1,
) -> Tensor:
    """Convolve with a weight mixed from K copies, in groups that gates choose.

        output[n, o] = bias[o] + sum_i relation[o, i] * (sum_k code[k] * weight[k, o, i]) (*) input[n, i]

    where (*) is the cross-correlation of `torch.nn.functional.conv2d`, and the relation is that of
    `dynamic_group_weight`: with n gates of 0 and 1, those of `2^(n - sum of gates)` groups. The mask is applied while
    the copies are mixed; the convolution itself is the vendor's dense one, whatever the gates, so that only
    `kshot_ext.nn.DynamicGroupConv2d.export` saves time by groups.

    Args:
        input: `[N, C_in, H, W]`.
        weight: dictionary `[K, C_out, C_in, KH, KW]`; float32, float64, bfloat16 or float16.
        code: `[K]` for the whole batch, or `[N, K]`, one row per sample; any real numbers.
        group_gates: `[n]`, where 2^n divides C_out and C_in; any real numbers.
        bias: `[C_out]`, or a dictionary `[K, C_out]` mixed with the same code; default: none.
        stride, padding, dilation: as in `torch.nn.functional.conv2d`; padding may be "same" or "valid".

    Returns:
        `[N, C_out, H', W']` in the memory format of the input.

    Gradients:
        To `input`, `weight`, `code`, `group_gates` and `bias`. A second derivative needs the reference backend.

    Raises:
        TypeError, ValueError: on a wrong dtype, rank, size or device, naming the argument.

    Example:
        >>> import torch
        >>> weight, code = torch.randn(4, 8, 16, 3, 3), torch.full((4,), 0.25)
        >>> gates = torch.tensor([0.0, 1.0, 0.0])  # 4 groups
        >>> dynamic_group_conv2d(torch.randn(2, 16, 5, 5), weight, code, gates, padding=1).shape
        torch.Size([2, 8, 5, 5])

    Paper: Differentiable Learning-to-Group Channels via Groupable Convolutional Neural Networks, arXiv 1908.05867.
    """
    dims = DIMENSIONS[2]
    widths, window = checked(dims, input, weight, code, bias, stride, padding, dilation, 1, None, None, "auto")
    if input.shape[1] != weight.shape[2]:
        raise ValueError(
            f"input must have C_in = {weight.shape[2]} channels for weight {list(weight.shape)}, since gates group all "
            f"of them; got {input.shape[1]}"
        )
    check_code(code, weight)
    check_group_gates(group_gates, weight)
    if backend.kernels_for(input.device) is None:
        input, window = window.without_pitfalls(input)
        return reference.dynamic_group_conv2d(input, weight, code, group_gates, bias, *window.torch_arguments())
    call = ConvCall(dims, input, weight, code, bias, None, widths, window, group_gates)
    return conv_forms.form_apart(call)(call)
