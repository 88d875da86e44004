"""The forms that a checked K-shot convolution can take."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from kshot_ext import backend
from kshot_ext.ops.dynamic_group_weight import mix_groups
from kshot_ext.ops.effective_weight import effective_bias, leading, mix
from kshot_ext.ops.fused_conv2d import fused_conv2d
from kshot_ext.ops.memory_order import has_channels_innermost
from kshot_ext.ops.per_sample_linear import per_sample_linear, stacks_by_itself, suits_one_product
from kshot_ext.ops.window import Window
from kshot_ext.widths import ActiveWidths

HALF_TYPES = (torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Dimensions:
    """What differs between one, two and three spatial dimensions."""

    count: int
    convolve: Callable[..., Tensor]
    reference: Callable[..., Tensor]
    input_layout: str
    weight_layout: str
    channels_last: torch.memory_format | None


class ConvCall(NamedTuple):
    """A checked call: the input is narrowed to the active channels."""

    dims: Dimensions
    input: Tensor
    weight: Tensor
    code: Tensor
    bias: Tensor | None
    gate: Tensor | None
    widths: ActiveWidths
    window: Window
    group_gates: Tensor | None = None  # of a dynamic grouping, which only the forms that mix first serve

    def effective_weight(self) -> Tensor:
        """The weight that a form uses which leaves the product to the vendor's library."""
        if self.group_gates is not None:
            return mix_groups(self.weight, self.code, self.group_gates)
        return mix(self.weight, self.code, self.gate, self.widths.out_channels, self.widths.weight_in_channels)

    @property
    def per_sample(self) -> bool:
        return self.code.dim() > 1

    @property
    def by_place(self) -> bool:
        """Whether each place in the kernel has a code of its own, `[N, K, *kernel]`."""
        return self.code.dim() > 2

    @property
    def depthwise(self) -> bool:
        return is_depthwise(self.weight, self.widths)

    def in_format_of_input(self, tensor: Tensor) -> Tensor:
        """`tensor` in the memory format of the input: a convolution follows whichever operand is channels_last."""
        return tensor if self.dims.channels_last is None else tensor.contiguous(memory_format=self.memory_format)

    @property
    def memory_format(self) -> torch.memory_format:
        """That of the input; what is both counts as contiguous."""
        channels_last = self.dims.channels_last
        if channels_last is None or self.input.is_contiguous():
            return torch.contiguous_format
        return channels_last if has_channels_innermost(self.input) else torch.contiguous_format


Form = Callable[[ConvCall], Tensor]
_Operands = tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None]  # input, weight, code, gate, bias


def is_depthwise(weight: Tensor, widths: ActiveWidths) -> bool:
    """Whether each output channel has an input channel of its own."""
    return weight.shape[2] == 1 and widths.groups == widths.out_channels


def active(input: Tensor, widths: ActiveWidths) -> Tensor:
    """The channels of the input that a convolution of these widths reads."""
    return input[:, : widths.in_channels] if widths.in_channels < input.shape[1] else input


# Of a dense dictionary; CUDA's kernels hold a code of at most so many entries.
MOST_CUDA_COPIES = 128


def fused_serves(call: ConvCall) -> bool:
    """Whether we have a kernel for this call: two dimensions, depthwise or dense.

    Dense kernels take float32, on CUDA half types too, and there up to `MOST_CUDA_COPIES` copies. Under autocast the
    vendor's are used: they round the mixed weight, not the dictionary. Codes by place are known to those of the CPU.
    """
    on_cuda = backend.kernels_for(call.input.device) == "cuda"
    if call.dims.count != 2 or (call.by_place and on_cuda):
        return False
    if call.depthwise:
        return True
    legal = (torch.float32, torch.bfloat16, torch.float16) if on_cuda else (torch.float32,)
    autocast = torch.is_autocast_enabled(call.input.device.type)
    if call.widths.groups != 1 or call.input.dtype not in legal or autocast:
        return False
    return not on_cuda or call.weight.shape[0] <= MOST_CUDA_COPIES


def is_linear_map(call: ConvCall) -> bool:
    """Whether each output position is the same linear map of one input position: 1x1, one group, no padding."""
    return math.prod(call.weight.shape[3:]) == 1 and not any(call.window.padding) and call.widths.groups == 1


def stacks_copies(call: ConvCall) -> bool:
    """Whether a per-sample convolution is a linear map of one row a sample: 1x1 on a single pixel."""
    single = math.prod(call.input.shape[2:]) == 1
    return call.per_sample and not call.by_place and single and is_linear_map(call) and suits_one_product(call.input)


def form_of_copies(call: ConvCall) -> Form:
    """The form that applies all copies, where `stacks_copies`; in two dimensions our operator does so by itself."""
    return fused_form if call.dims.count == 2 and stacks_by_itself(call.input) else stacked_form


def form_apart(call: ConvCall) -> Callable[[ConvCall], Tensor]:
    """The form that mixes first and leaves the product to the vendor's library.

    For 1x1 convolutions with a code per sample that is one batched product on CUDA, also where no kernel of ours could
    serve: cuDNN runs N groups one after another. On the CPU oneDNN's grouped convolution is what was measured.
    """
    if not call.per_sample:
        return mix_then_conv_form
    on_cuda = backend.kernels_for(call.input.device) == "cuda"
    return batched_form if on_cuda and is_linear_map(call) else grouped_form


def stacked_form(call: ConvCall) -> Tensor:
    """All copies applied to the batch, their results mixed."""
    input, weight = call.input.flatten(1), call.weight.flatten(2)
    output = per_sample_linear(input, weight, call.code, call.bias, call.gate, call.widths.out_channels)
    single = (..., *(None,) * call.dims.count)
    return call.in_format_of_input(output[single])


def fused_form(call: ConvCall) -> Tensor:
    """Our own operator; a gate that its kernels do not take scales the output."""
    if call.gate is not None and not takes_gate(call):
        return _scaled_by_gate(fused_form, call, call.gate)
    operands, arguments = fused_arguments(call)
    return call.in_format_of_input(fused_conv2d(*operands, *arguments))


def fused_arguments(call: ConvCall) -> tuple[_Operands, tuple[int, Window, bool]]:
    """Operands and settings of our operator, which casts what it uses of the dictionary."""
    widths = call.widths
    sum_dtype = torch.promote_types(call.weight.dtype, torch.float32)
    code, gate = call.code.to(sum_dtype), call.gate
    if gate is not None:
        gate = leading(gate, widths.out_channels).to(sum_dtype)
        if gate.dim() == 2 and code.dim() == 1:
            code = code.expand(gate.shape[0], -1)
    bias = effective_bias(call.bias, code, gate, widths.out_channels)
    operands = (call.input.to(_output_dtype(call)), call.weight, code, gate, bias)
    return operands, (widths.out_channels, call.window, call.depthwise)


def takes_gate(call: ConvCall) -> bool:
    """Whether `fused_conv2d` takes the gate of this call, if there is one.

    A gate per sample makes a weight per sample of a weight for the batch. Depthwise ones are small beside the output;
    of dense ones the output is scaled instead.
    """
    return call.gate is None or call.depthwise or (not call.per_sample and call.gate.dim() == 1)


def _scaled_by_gate(form: Form, call: ConvCall, gate: Tensor) -> Tensor:
    """What `form` makes of the call without its `gate`, each output channel times the gate.

    An output of a half type is rounded once, after the gate: before, it might overflow. So all of it is made in
    float32, from the operands that autocast would round.
    """
    dtype = _output_dtype(call)
    if dtype not in HALF_TYPES:
        return _gated(form(call._replace(gate=None)), gate)
    with torch.autocast(call.input.device.type, enabled=False):
        weight = call.weight[:, : call.widths.out_channels, : call.widths.weight_in_channels]
        whole = call._replace(
            input=call.input.to(dtype).float(),
            weight=weight.float(),
            bias=None if call.bias is None else leading(call.bias, call.widths.out_channels).float(),
            gate=None,
        )
        return _gated(form(whole), gate).to(dtype)


def _gated(output: Tensor, gate: Tensor) -> Tensor:
    """Each output channel times its gate, `[C_out]` or `[N, C_out]`, of which the leading part is used."""
    gate = gate[..., : output.shape[1]].to(output.dtype)
    return output * gate.reshape(*gate.shape, *(1,) * (output.dim() - 2))


def _output_dtype(call: ConvCall) -> torch.dtype:
    """The dtype of autocast where it is on, as torch's own convolutions have it."""
    device = call.input.device.type
    if not torch.is_autocast_enabled(device) or call.input.dtype == torch.float64:
        return call.input.dtype
    return torch.get_autocast_dtype(device)


def mix_then_conv_form(call: ConvCall) -> Tensor:
    """One code for the batch: mix once, convolve once; a gate per sample scales the output."""
    widths, gate = call.widths, call.gate
    if gate is not None and gate.dim() == 2:
        return _scaled_by_gate(mix_then_conv_form, call, gate)
    mixed = call.effective_weight()
    mixed = call.in_format_of_input(mixed)
    mixed_bias = effective_bias(call.bias, call.code, gate, widths.out_channels)
    return _convolve(call, call.input, mixed, mixed_bias, widths.groups)


def grouped_form(call: ConvCall) -> Tensor:
    """One code per sample: the samples become groups of one wide convolution."""
    widths, batch = call.widths, call.input.shape[0]
    mixed = call.effective_weight()
    mixed_bias = effective_bias(call.bias, call.code, call.gate, widths.out_channels)
    if batch == 0:  # a convolution of no groups does not exist; the sums over no samples keep the graph whole
        bias_sum = None if mixed_bias is None else mixed_bias.reshape(-1, widths.out_channels).sum(0)
        return _convolve(call, call.input, mixed.sum(0), bias_sum, widths.groups)
    if mixed_bias is not None and mixed_bias.dim() == 1:
        mixed_bias = mixed_bias.expand(batch, -1)
    output = _convolve(
        call,
        call.input.reshape(1, -1, *call.input.shape[2:]),
        mixed.flatten(0, 1),
        None if mixed_bias is None else mixed_bias.flatten(),
        batch * widths.groups,
    )
    output = output.reshape(batch, widths.out_channels, *output.shape[2:])
    return call.in_format_of_input(output)


def _convolve(call: ConvCall, input: Tensor, weight: Tensor, bias: Tensor | None, groups: int) -> Tensor:
    """torch's convolution, of an input and a window that it survives."""
    input, window = call.window.without_pitfalls(input)
    return call.dims.convolve(input, weight, bias, *window.torch_arguments(), groups)


def batched_form(call: ConvCall) -> Tensor:
    """One code per sample, 1x1: a product of matrices for each sample, all of them in one call of `torch.bmm`.

    In float32 it rounds as matrix products do (`torch.backends.cuda.matmul.allow_tf32`), not as convolutions.
    """
    widths = call.widths
    mixed = call.effective_weight().flatten(2)
    bias = effective_bias(call.bias, call.code, call.gate, widths.out_channels)
    every = (slice(None), slice(None), *(slice(None, None, step) for step in call.window.stride))
    image = call.input[every]
    positions = image.flatten(2)  # [N, C_in', positions]
    bias = bias if bias is None else bias.to(mixed.dtype).reshape(-1, widths.out_channels, 1)
    if image.stride(1) == 1:  # channels_last: so is the output
        output = _product(positions.mT, mixed.mT, bias if bias is None else bias.mT).mT
    else:
        output = _product(mixed, positions, bias)
    return call.in_format_of_input(output.unflatten(2, image.shape[2:]))


def _product(left: Tensor, right: Tensor, addend: Tensor | None) -> Tensor:
    """A product of matrices per sample, and what is added before it is rounded."""
    return torch.bmm(left, right) if addend is None else torch.baddbmm(addend, left, right)
