"""K-shot convolution in one, two and three dimensions: mix, gate, slice, convolve."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from kshot_ext import backend, reference
from kshot_ext.ops import checks
from kshot_ext.ops.dense_conv2d import dense_conv2d
from kshot_ext.ops.depthwise_conv2d import depthwise_conv2d
from kshot_ext.ops.effective_weight import mix
from kshot_ext.ops.per_sample_conv2d import per_sample_conv2d
from kshot_ext.ops.window import Window
from kshot_ext.widths import ActiveWidths, active_widths

Size = int | Sequence[int]


@dataclass(frozen=True)
class _Dimensions:
    """What differs between one, two and three spatial dimensions."""

    convolve: Callable[..., Tensor]
    reference: Callable[..., Tensor]
    input_layout: str
    weight_layout: str
    channels_last: torch.memory_format | None

    @property
    def count(self) -> int:
        return self.input_layout.count(",") - 1


_1D = _Dimensions(F.conv1d, reference.kshot_conv1d, "[N, C_in, L]", "[K, C_out, C_in/groups, KL]", None)
_2D = _Dimensions(
    F.conv2d,
    reference.kshot_conv2d,
    "[N, C_in, H, W]",
    "[K, C_out, C_in/groups, KH, KW]",
    torch.channels_last,
)
_3D = _Dimensions(
    F.conv3d,
    reference.kshot_conv3d,
    "[N, C_in, D, H, W]",
    "[K, C_out, C_in/groups, KD, KH, KW]",
    torch.channels_last_3d,
)


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
    channel, its bias included, so that a gate of zero removes the channel just as a smaller width does.

    Args:
        input: `[N, C_in', H, W]`. Its channel count is the input width: the leading C_in' input channels of the
            weight are used. With several groups a width is a whole number of groups, and the input width sets the
            group count (for a depthwise weight it is the output width too).
        weight: dictionary `[K, C_out, C_in/groups, KH, KW]`; float32, float64, bfloat16 or float16.
        code: `[K]` for the whole batch, or `[N, K]`, one row per sample; any real numbers.
        bias: `[C_out]`, or a dictionary `[K, C_out]` mixed with the same code; default: none.
        stride, padding, dilation, groups: as in `torch.nn.functional.conv2d`; padding may be "same" or "valid".
        gate: `[C_out]` or `[N, C_out]`, or just the active part of it; default: no gate.
        out_channels: output width C_out'; default: all that the input width allows.
        algorithm: "mix_then_conv" mixes the weight, then calls the vendor's convolution; "fused" does both in
            one kernel of ours; "auto" picks the faster one that can serve the call.

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

    Paper: K-shot NAS, arXiv 2106.06442 (codes); per-sample codes are those of CondConv, arXiv 1904.04971.
    """
    return _kshot_conv(_2D, input, weight, code, bias, stride, padding, dilation, groups, gate, out_channels, algorithm)


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
    return _kshot_conv(_1D, input, weight, code, bias, stride, padding, dilation, groups, gate, out_channels, algorithm)


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
    return _kshot_conv(_3D, input, weight, code, bias, stride, padding, dilation, groups, gate, out_channels, algorithm)


def _kshot_conv(
    dims, input, weight, code, bias, stride, padding, dilation, groups, gate, out_channels, algorithm
) -> Tensor:
    checks.check_tensor("input", input, dims.input_layout, (dims.count + 2,))
    checks.check_dictionary(weight, dims.weight_layout, (dims.count + 3,))
    checks.check_companion("weight", weight, "input", input)
    checks.check_same_dtype("weight", weight, "input", input)
    checks.check_code(code, weight, input.shape[0])
    checks.check_algorithm(algorithm)
    widths = active_widths(input.shape[1], (weight.shape[1], weight.shape[2]), groups, out_channels)
    window = Window.of_arguments(weight.shape[3:], stride, padding, dilation)
    window.output_size(input.shape[2:])  # raises if the kernel does not fit
    if gate is not None:
        checks.check_gate(gate, weight, weight.shape[1], widths.out_channels, input.shape[0])
    if bias is not None:
        checks.check_bias(bias, weight)
    if not backend.native():
        return dims.reference(
            input, weight, code, bias, stride, padding, dilation, groups, gate=gate, out_channels=out_channels
        )
    input = input[:, : widths.in_channels] if widths.in_channels < input.shape[1] else input
    call = _Call(dims, input, weight, code, bias, gate, widths, window, (stride, padding, dilation))
    fused = _fused_form(call)
    if algorithm == "fused" and fused is None:
        raise ValueError(
            f"algorithm='fused' has no kernel for a convolution of weight {list(weight.shape)} with groups={groups} "
            f"on {input.device.type}; use 'auto' or 'mix_then_conv'"
        )
    if fused is not None and (algorithm == "fused" or (algorithm == "auto" and _prefers_fused(call, fused))):
        return fused(call)
    return _per_sample_form(call) if code.dim() == 2 else _shared_form(call)


@dataclass(frozen=True)
class _Call:
    """A checked call: the input is narrowed to the active channels."""

    dims: _Dimensions
    input: Tensor
    weight: Tensor
    code: Tensor
    bias: Tensor | None
    gate: Tensor | None
    widths: ActiveWidths
    window: Window
    torch_window: tuple  # stride, padding, dilation as torch takes them

    @property
    def per_sample(self) -> bool:
        return self.code.dim() == 2

    def in_format_of_input(self, tensor: Tensor) -> Tensor:
        """`tensor` in the memory format of the input: a convolution follows whichever operand is channels_last."""
        memory_format = self.dims.channels_last
        if memory_format is None:
            return tensor
        channels_last = not self.input.is_contiguous() and self.input.is_contiguous(memory_format=memory_format)
        return tensor.contiguous(memory_format=memory_format if channels_last else torch.contiguous_format)


def _fused_form(call: _Call) -> Callable[[_Call], Tensor] | None:
    """Our own kernel for this call, or None: two dimensions, on the CPU, depthwise or (in float32) dense."""
    widths = call.widths
    if call.dims is not _2D or call.input.device.type != "cpu":
        return None
    if widths.weight_in_channels == 1 and widths.groups == widths.out_channels:
        return _depthwise_form
    autocast = torch.is_autocast_enabled("cpu")
    if widths.groups == 1 and call.input.dtype == torch.float32 and not autocast:
        return _per_sample_dense_form if call.per_sample else _dense_form
    return None


def _prefers_fused(call: _Call, fused: Callable[[_Call], Tensor]) -> bool:
    """The rule of "auto" where we have a kernel.

    Depthwise and per-sample convolutions are ours; with one dense weight for the batch the vendor's library is the
    better choice.
    """
    return fused is not _dense_form


def _depthwise_form(call: _Call) -> Tensor:
    """One kernel per channel: the weights are small, mix them all and convolve in channels_last."""
    widths, gate, taps = call.widths, call.gate, math.prod(call.weight.shape[3:])
    if call.per_sample:
        by_tap = call.weight.flatten(2).mT  # [K, taps, C_out]: mixed in the order in which the kernel reads
        weight = mix(by_tap, call.code, None, taps, widths.out_channels)
        weight = weight if gate is None else weight * gate[..., None, : widths.out_channels].to(weight.dtype)
    else:
        weight_gate = gate if gate is None or gate.dim() == 1 else None
        weight = mix(call.weight, call.code, weight_gate, widths.out_channels, 1).flatten(1).mT
        if gate is not None and gate.dim() == 2:
            weight = weight * gate[:, None, : widths.out_channels].to(weight.dtype)
    bias = effective_bias(call.bias, call.code, gate, widths.out_channels)
    input, weight, bias = _autocast(call.input, weight, bias)
    return call.in_format_of_input(depthwise_conv2d(input, weight, bias, call.window))


def _dense_form(call: _Call) -> Tensor:
    """One weight for the batch through our own matrix product."""
    widths, gate = call.widths, call.gate
    weight_gate = gate if gate is None or gate.dim() == 1 else None
    weight = mix(call.weight, call.code, weight_gate, widths.out_channels, widths.weight_in_channels)
    bias = effective_bias(call.bias, call.code, weight_gate, widths.out_channels)
    output = dense_conv2d(call.input, weight, bias, call.window)
    return call.in_format_of_input(output if weight_gate is gate else _gated(output, gate))


def _per_sample_dense_form(call: _Call) -> Tensor:
    """A weight per sample, mixed panel by panel inside the kernel; the gate scales the output."""
    out_channels, code = call.widths.out_channels, call.code.to(torch.float32)
    bias = effective_bias(call.bias, code, None, out_channels)
    if bias is not None and bias.dim() == 1:
        bias = bias.expand(call.input.shape[0], -1)
    output = per_sample_conv2d(call.input, call.weight, code, bias, out_channels, call.window)
    return call.in_format_of_input(output if call.gate is None else _gated(output, call.gate))


def _gated(output: Tensor, gate: Tensor) -> Tensor:
    """Each output channel times its gate, `[C_out]` or `[N, C_out]`, of which the leading part is used."""
    gate = gate[..., : output.shape[1]].to(output.dtype)
    return output * gate.reshape(*gate.shape, *(1,) * (output.dim() - 2))


def _autocast(input: Tensor, *tensors: Tensor | None) -> tuple[Tensor | None, ...]:
    """The operands in the dtype of autocast where it is on, as torch's own convolutions do."""
    if not torch.is_autocast_enabled(input.device.type) or input.dtype == torch.float64:
        return (input, *tensors)
    dtype = torch.get_autocast_dtype(input.device.type)
    return tuple(None if tensor is None else tensor.to(dtype) for tensor in (input, *tensors))


def _shared_form(call: _Call) -> Tensor:
    """One code for the batch: mix once, convolve once; a gate per sample scales the output."""
    widths, gate = call.widths, call.gate
    gate_per_sample = gate is not None and gate.dim() == 2
    weight_gate = None if gate_per_sample else gate
    mixed = mix(call.weight, call.code, weight_gate, widths.out_channels, widths.weight_in_channels)
    mixed = call.in_format_of_input(mixed)
    mixed_bias = effective_bias(call.bias, call.code, weight_gate, widths.out_channels)
    output = call.dims.convolve(call.input, mixed, mixed_bias, *call.torch_window, widths.groups)
    return _gated(output, gate) if gate_per_sample else output


def _per_sample_form(call: _Call) -> Tensor:
    """One code per sample: the samples become groups of one wide convolution."""
    widths, batch = call.widths, call.input.shape[0]
    mixed = mix(call.weight, call.code, call.gate, widths.out_channels, widths.weight_in_channels)
    mixed_bias = effective_bias(call.bias, call.code, call.gate, widths.out_channels)
    if batch == 0:  # a convolution of no groups does not exist; the sum over no samples keeps the graph whole
        return call.dims.convolve(call.input, mixed.sum(0), None, *call.torch_window, widths.groups)
    if mixed_bias is not None and mixed_bias.dim() == 1:
        mixed_bias = mixed_bias.expand(batch, -1)
    output = call.dims.convolve(
        call.input.reshape(1, -1, *call.input.shape[2:]),
        mixed.flatten(0, 1),
        None if mixed_bias is None else mixed_bias.flatten(),
        *call.torch_window,
        batch * widths.groups,
    )
    output = output.reshape(batch, widths.out_channels, *output.shape[2:])
    return call.in_format_of_input(output)


def effective_bias(bias: Tensor | None, code: Tensor, gate: Tensor | None, out_channels: int) -> Tensor | None:
    """Bias of the active channels, `[C_out']` or `[N, C_out']`: mixed if it is a dictionary, and gated."""
    if bias is None:
        return None
    if bias.dim() == 2:
        return mix(bias, code, gate, out_channels, None)
    return mix(bias[None], code.new_ones(1), gate, out_channels, None) if gate is not None else bias[:out_channels]
