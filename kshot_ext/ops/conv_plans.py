"""The plan of a convolution: its form with everything decided that shapes, dtypes and settings decide.

Most calls need nothing but their operator: no operand is cast, cut or repeated. A plan of such calls is that operator
and its arguments; a plan of others keeps what was checked and chosen, and runs the form.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kshot_ext.ops import conv_forms, effective_weight, fused_conv2d
from kshot_ext.ops.conv_forms import ConvCall, Dimensions, Form
from kshot_ext.ops.differentiable import Operator, is_recorded
from kshot_ext.ops.window import Window
from kshot_ext.widths import ActiveWidths


class ConvPlan(NamedTuple):
    """What to run.

    Args:
        run: makes the output, `run(input, weight, code, gate, bias, *arguments)`; with a `convolution` the effective
            weight, `run(weight, code, gate, *arguments)`.
        arguments: see `run`.
        convolution: stride, padding, dilation and groups of torch's convolution with that weight.
        memory_format: of the weight that it takes.
    """

    run: Callable[..., Tensor]
    arguments: tuple[Any, ...]
    convolution: tuple[Any, ...] | None = None
    memory_format: torch.memory_format = torch.contiguous_format


def conv_plan(input: Tensor, call: ConvCall, form: Form, output: Tensor) -> ConvPlan:
    """The plan of calls like this one, for which `form` made `output`; `input` is the caller's, not yet narrowed."""
    given = (input, call.weight, call.code, call.gate, call.bias)
    general = ConvPlan(_run_form, (form, call.dims, call.widths, call.window))
    if call.bias is not None and (call.bias.dim() == 2 or call.gate is not None):  # a bias to be mixed or gated
        return general
    if form is conv_forms.fused_form and conv_forms.takes_gate(call):
        operands, arguments = conv_forms.fused_arguments(call)
        memory_format = fused_conv2d.memory_format(call.input, call.depthwise)
        if _unchanged(operands, given) and output.is_contiguous(memory_format=memory_format):
            return ConvPlan(_eager(fused_conv2d.operator, operands), fused_conv2d.settings(*arguments))
    elif form is conv_forms.mix_then_conv_form and call.gate is None and call.dims.channels_last is not None:
        mixed, widths = effective_weight.mixing_arguments(
            call.weight, call.code, None, call.widths.out_channels, call.widths.weight_in_channels
        )
        bias = effective_weight.effective_bias(call.bias, call.code, None, call.widths.out_channels)
        convolved, window = call.window.without_pitfalls(call.input)
        if _unchanged((convolved, *mixed, bias), given):
            convolution = (*window.torch_arguments(), call.widths.groups)
            run = _eager(effective_weight.mixing, mixed)
            return ConvPlan(run, widths, convolution, call.memory_format)
    return general


def _unchanged(operands: tuple[Tensor | None, ...], given: tuple[Tensor | None, ...]) -> bool:
    """Whether a form takes its operands as the caller gave them."""
    return all(operand is original for operand, original in zip(operands, given))


def _eager(operator: Operator, operands: tuple[Tensor | None, ...]) -> Callable[..., Tensor]:
    return operator.recorded if is_recorded(operands) else operator.unrecorded


def _run_form(
    input: Tensor, weight: Tensor, code: Tensor, gate: Tensor | None, bias: Tensor | None, form: Form, dims: Dimensions,
    widths: ActiveWidths, window: Window,
) -> Tensor:  # fmt: skip
    return form(ConvCall(dims, conv_forms.active(input, widths), weight, code, bias, gate, widths, window))
