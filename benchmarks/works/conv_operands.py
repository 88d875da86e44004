"""Operands of a convolution and what all contests over convolutions share."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.forms import LAYOUTS, Form, differentiated, in_layout
from benchmarks.layers import ConvLayer
from benchmarks.place import CPU, Place
from benchmarks.works.row import FLOAT32_BYTES

Operands = tuple[Tensor, ...]


def conv_operands(
    layer: ConvLayer, batch: int, code_shape: tuple[int, ...] = (), place: Place = CPU
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Input, dictionary, code and gradient of the output: normal, the code's rows on the simplex.

    Args:
        code_shape: `[K]` or `[N, K]`; empty gives a plain weight in place of a dictionary.
    """
    generator = torch.Generator().manual_seed(0)
    input = place.normal(generator, batch, layer.in_channels, layer.size, layer.size)
    weight = place.normal(generator, *code_shape[-1:], *layer.weight_shape)
    code = place.normal(generator, *code_shape)
    code = code.softmax(-1) if code_shape else code
    grad = place.normal(generator, batch, layer.out_channels, layer.out_size, layer.out_size)
    return input, weight, code, grad


def forms_in_layouts(
    functions: dict[str, Callable[..., Tensor]],
    operands: Operands,
    grad_output: Tensor,
    values: Callable = tuple,
    **options: bool,
) -> list[Form]:
    """A form for each function and memory layout.

    Args:
        functions: name to a function of the operands.
        values, options: passed to each `Form`.
    """
    forms = []
    for layout in LAYOUTS:
        laid_out = tuple(in_layout(operand, layout) for operand in operands)
        grad = in_layout(grad_output, layout)
        for name, function in functions.items():
            run = differentiated(function, laid_out, grad)
            forms.append(Form(f"{name} ({layout})", run, values=values, layout=layout, **options))
    return forms


def compiled(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`function` behind `torch.compile`, for the one shape it meets."""
    return torch.compile(function, dynamic=False)


def conv_traffic(layer: ConvLayer, batch: int, code_shape: tuple[int, ...]) -> int:
    """Bytes of forward and backward if each operand crosses the bus once a pass.

    Forward reads input and weights and writes the output; backward reads input, weights and the gradient of
    the output, and writes the gradients of input and weights.
    """
    input = batch * layer.in_channels * layer.size**2
    output = batch * layer.out_channels * layer.out_size**2
    out_channels, in_channels, height, width = layer.weight_shape
    weights = out_channels * in_channels * height * width * (code_shape[-1] if code_shape else 1)
    return FLOAT32_BYTES * (3 * input + 2 * output + 3 * weights)


def conv_operations(layer: ConvLayer, batch: int) -> int:
    """Operations of forward, input gradient and weight gradient; mixing is left out."""
    return 3 * 2 * batch * layer.multiplications
