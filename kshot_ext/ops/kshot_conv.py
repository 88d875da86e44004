"""K-shot convolution in one, two and three dimensions: mix, gate, slice, convolve."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import functional as F
from torch.overrides import has_torch_function

from kshot_ext import backend, reference
from kshot_ext.ops import auto_rule, autotune, checks, conv_forms, plans
from kshot_ext.ops.conv_forms import ConvCall, Dimensions, Form
from kshot_ext.ops.conv_plans import ConvPlan, conv_plan
from kshot_ext.ops.window import Window
from kshot_ext.widths import ActiveWidths, active_widths

Size = int | Sequence[int]


_1D = Dimensions(1, F.conv1d, reference.kshot_conv1d, "[N, C_in, L]", "[K, C_out, C_in/groups, KL]", None)
_2D = Dimensions(
    2,
    F.conv2d,
    reference.kshot_conv2d,
    "[N, C_in, H, W]",
    "[K, C_out, C_in/groups, KH, KW]",
    torch.channels_last,
)
_3D = Dimensions(
    3,
    F.conv3d,
    reference.kshot_conv3d,
    "[N, C_in, D, H, W]",
    "[K, C_out, C_in/groups, KD, KH, KW]",
    torch.channels_last_3d,
)
DIMENSIONS = {dims.count: dims for dims in (_1D, _2D, _3D)}


def kshot_conv2d(
    input: Tensor,
    weight: Tensor,
    code: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Size | str = 0,
    dilation: Size = 1,
    groups: int = 1,
    *,
    gate: Tensor | None = None,
    out_channels: int | None = None,
    algorithm: str = "auto",
) -> Tensor:
    """Convolve with a weight mixed from K copies.

        output[n, o] = gate[o] * (bias[o] + sum_i (sum_k code[k] * weight[k, o, i]) (*) input[n, i])

    where (*) is the cross-correlation of `torch.nn.functional.conv2d`. The gate is a factor of the whole output
    channel, its bias included, so that a gate of zero removes the channel just as a smaller width does. A code may
    differ from place to place in the kernel; at each the copies are then mixed by its own entries.

    Args:
        input: `[N, C_in', H, W]`. Its channel count is the input width: the leading C_in' input channels of the
            weight are used. With several groups a width is a whole number of groups, and the input width sets the
            group count (for a depthwise weight it is the output width too).
        weight: dictionary `[K, C_out, C_in/groups, KH, KW]`; float32, float64, bfloat16 or float16.
        code: `[K]` for the whole batch; `[N, K]`, one row per sample; or `[N, K, KH, KW]`, one per sample and place in
            the kernel. Any real numbers.
        bias: `[C_out]`, or a dictionary `[K, C_out]` mixed with the same code, which then has no places; default: none.
        stride, padding, dilation, groups: as in `torch.nn.functional.conv2d`; padding may be "same" or "valid".
        gate: `[C_out]` or `[N, C_out]`, or just the active part of it; default: no gate.
        out_channels: output width C_out'; default: all that the input width allows.
        algorithm: "mix_then_conv" mixes the weight, then calls the vendor's convolution; "fused" calls one operator
            of ours that does both; "auto" picks the faster one that can serve the call, by a rule or, after
            `kshot_ext.set_autotune(True)`, by measuring.

    Returns:
        `[N, C_out', H', W']` in the memory format of the input.

    Gradients:
        To `input`, `weight`, `code`, `bias` and `gate`. A second derivative needs the reference backend.

    Raises:
        TypeError, ValueError: on a wrong dtype, rank, size, width or device, naming the argument.

    Example:
        >>> weight = torch.randn(4, 8, 3, 3, 3)  # K = 4 copies of a 3 -> 8 channel 3x3 weight
        >>> code = torch.tensor([0.1, 0.2, 0.3, 0.4])
        >>> kshot_conv2d(torch.randn(2, 3, 16, 16), weight, code, padding=1, out_channels=6).shape
        torch.Size([2, 6, 16, 16])

    Paper: K-shot NAS, arXiv 2106.06442 (codes); per-sample codes are those of CondConv, arXiv 1904.04971, and those by
    place the attentions over kernels and places of omni-dimensional dynamic convolution, arXiv 2209.07947.
    """
    return kshot_conv(_2D, input, weight, code, bias, stride, padding, dilation, groups, gate, out_channels, algorithm)


def kshot_conv1d(
    input: Tensor,
    weight: Tensor,
    code: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Size | str = 0,
    dilation: Size = 1,
    groups: int = 1,
    *,
    gate: Tensor | None = None,
    out_channels: int | None = None,
    algorithm: str = "auto",
) -> Tensor:
    """`kshot_conv2d` over one dimension: input `[N, C_in', L]`, weight `[K, C_out, C_in/groups, KL]`.

    Example:
        >>> kshot_conv1d(torch.ones(1, 1, 4), torch.ones(2, 1, 1, 3), torch.tensor([0.5, 0.5]))
        tensor([[[3., 3.]]])
    """
    return kshot_conv(_1D, input, weight, code, bias, stride, padding, dilation, groups, gate, out_channels, algorithm)


def kshot_conv3d(
    input: Tensor,
    weight: Tensor,
    code: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Size | str = 0,
    dilation: Size = 1,
    groups: int = 1,
    *,
    gate: Tensor | None = None,
    out_channels: int | None = None,
    algorithm: str = "auto",
) -> Tensor:
    """`kshot_conv2d` over three dimensions: input `[N, C_in', D, H, W]`, weight `[K, C_out, C_in/groups, KD, KH, KW]`.

    Example:
        >>> kshot_conv3d(torch.ones(1, 1, 2, 2, 2), torch.ones(2, 1, 1, 2, 2, 2), torch.tensor([0.5, 0.5]))
        tensor([[[[[8.]]]]])
    """
    return kshot_conv(_3D, input, weight, code, bias, stride, padding, dilation, groups, gate, out_channels, algorithm)


def kshot_conv(
    dims: Dimensions, input: Tensor, weight: Tensor, code: Tensor, bias: Tensor | None, stride: Size,
    padding: Size | str, dilation: Size, groups: int, gate: Tensor | None, out_channels: int | None, algorithm: str,
) -> Tensor:  # fmt: skip
    """What the functions above and the modules call: runs the plan of the call, and makes it if there is none.

    It is one function, which calls none of ours but the operator: around small tensors each takes time that shows.
    """
    key: plans.Key | None = None
    plan: ConvPlan | None = None
    if not (
        torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()  # this line and the next are `backend.under_transform`
        or forward_ad._current_level >= 0
        or backend.override.reference
        or torch.jit.is_tracing()
        or has_torch_function((input,))  # also of modes
    ):
        try:
            device = input.device
            kind, wrapped = device.type, plans.is_wrapped
            key = (
                type(input), input.shape, input.stride(), input.dtype, device, input.requires_grad, wrapped(input),
                type(weight), weight.shape, weight.dtype, weight.device, weight.requires_grad, wrapped(weight),
                type(code), code.shape, code.dtype, code.device, code.requires_grad, wrapped(code),
                bias is not None
                and (type(bias), bias.shape, bias.dtype, bias.device, bias.requires_grad, wrapped(bias)),
                gate is not None
                and (type(gate), gate.shape, gate.dtype, gate.device, gate.requires_grad, wrapped(gate)),
                # As text, which tells 1 from True and 1.0.
                f"{stride!r} {padding!r} {dilation!r} {groups!r} {out_channels!r} {algorithm!r}",
                dims.count,
                torch.is_grad_enabled(),
                torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind),
                kind == "cuda" and torch.backends.cudnn.allow_tf32,
                autotune.measuring and (weight.stride(), code.stride()),
            )  # fmt: skip
            plan = plans.kept.get(key)
        except (AttributeError, RuntimeError, TypeError):  # no tensor, or none with strides: the checks say so
            key = None
    if plan is None:
        return _first_call(
            key, dims, input, weight, code, bias, stride, padding, dilation, groups, gate, out_channels, algorithm
        )
    if plan.convolution is None:
        return plan.run(input, weight, code, gate, bias, *plan.arguments)
    mixed = plan.run(weight, code, gate, *plan.arguments).contiguous(memory_format=plan.memory_format)
    return dims.convolve(input, mixed, bias, *plan.convolution)


def _first_call(
    key: plans.Key | None, dims: Dimensions, input: Tensor, weight: Tensor, code: Tensor, bias: Tensor | None,
    stride: Size, padding: Size | str, dilation: Size, groups: int, gate: Tensor | None, out_channels: int | None,
    algorithm: str,
) -> Tensor:  # fmt: skip
    """A call without a plan: checks it, chooses its form, runs that; and keeps the plan if there is a `key` for it."""
    widths, window = checked(
        dims, input, weight, code, bias, stride, padding, dilation, groups, gate, out_channels, algorithm
    )
    kernels = backend.kernels_for(input.device)
    if kernels is None:
        input, window = window.without_pitfalls(input)
        return dims.reference(
            input, weight, code, bias, *window.torch_arguments(), groups, gate=gate, out_channels=out_channels
        )
    call = ConvCall(dims, conv_forms.active(input, widths), weight, code, bias, gate, widths, window)
    form = _chosen_form(call, algorithm, groups)
    output = form(call)
    # Autotune measures bias and gate by their strides, too, and nothing while a CUDA graph is captured.
    fixed = not autotune.measuring or (kernels == "cpu" and bias is None and gate is None)
    if key is not None and fixed and plans.are_plain(input, weight, code, bias, gate):
        plans.keep(key, conv_plan(input, call, form, output))
    return output


def checked(
    dims: Dimensions, input: Tensor, weight: Tensor, code: Tensor, bias: Tensor | None, stride: Size,
    padding: Size | str, dilation: Size, groups: int, gate: Tensor | None, out_channels: int | None, algorithm: str,
) -> tuple[ActiveWidths, Window]:  # fmt: skip
    """The widths and the window of a call without a mistake."""
    checks.check_tensor("input", input, dims.input_layout, (dims.count + 2,))
    checks.check_dictionary(weight, dims.weight_layout, (dims.count + 3,))
    checks.check_companion("weight", weight, "input", input)
    checks.check_same_dtype("weight", weight, "input", input)
    checks.check_code(code, weight, input.shape[0], places=True)
    checks.check_algorithm(algorithm)
    widths = active_widths(input.shape[1], (weight.shape[1], weight.shape[2]), groups, out_channels)
    window = Window.of_arguments(weight.shape[3:], stride, padding, dilation).cut_to(input.shape[2:])
    if gate is not None:
        checks.check_gate(gate, weight, weight.shape[1], widths.out_channels, input.shape[0])
    if bias is not None:
        checks.check_bias(bias, weight)
        if bias.dim() == 2 and code.dim() > 2:
            raise ValueError(
                "a bias dictionary [K, C_out] has no places in a kernel, and needs a code [K] or [N, K]; "
                f"got code {list(code.shape)}: mix the bias beforehand, and add it to the output"
            )
    return widths, window


def _chosen_form(call: ConvCall, algorithm: str, groups: int) -> Form:
    """The form that `algorithm` names or, if it is "auto", that is measured or expected to be the fastest."""
    if algorithm == "auto" and conv_forms.stacks_copies(call):
        return conv_forms.form_of_copies(call)
    serves = algorithm != "mix_then_conv" and conv_forms.fused_serves(call)
    if algorithm == "fused" and not serves:
        raise ValueError(
            f"algorithm='fused' has no kernel for a convolution of weight {list(call.weight.shape)} with "
            f"groups={groups} on {call.input.device.type}; use 'auto' or 'mix_then_conv'"
        )
    apart = conv_forms.form_apart(call)
    if not serves:
        return apart
    if algorithm == "fused":
        return conv_forms.fused_form
    if autotune.measures():
        forms = {"fused": conv_forms.fused_form, "mix_then_conv": apart}
        return forms[autotune.fastest(call, forms)]
    return conv_forms.fused_form if auto_rule.prefers_fused(call) else apart
