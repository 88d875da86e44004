"""Inverted residuals as chains, 1x1 - depthwise - 1x1 with batch norm and ReLU between: against torch's layers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks import peers
from benchmarks.forms import Contest
from benchmarks.layers import ConvLayer, LayerSet
from benchmarks.place import CPU, Place
from benchmarks.works.conv_operands import compiled, conv_operations, forms_in_layouts
from benchmarks.works.row import FLOAT32_BYTES, Row
from kshot_ext import functional as KF

Block = tuple[ConvLayer, ConvLayer, ConvLayer]
# ReLU's slope jumps where rounding decides the sign: a few positions of millions differ between right forms, and
# the batch norms before spread what comes of them.
KINKS = 50


def blocks_of(layers: LayerSet) -> list[tuple[Block, int]]:
    """Distinct geometries of expand, depthwise, project, and how often each occurs."""
    found: dict[tuple[str, ...], tuple[Block, int]] = {}
    convolutions = layers.convolutions
    for expand, depthwise, project in zip(convolutions, convolutions[1:], convolutions[2:]):
        kinds = [layer.kind for layer in (expand, depthwise, project)]
        pointwise = expand.kernel_size == project.kernel_size == 1
        linked = expand.out_channels == depthwise.in_channels and depthwise.out_channels == project.in_channels
        if kinds == ["dense", "depthwise", "dense"] and pointwise and linked and project.size == depthwise.out_size:
            key = tuple(layer.geometry for layer in (expand, depthwise, project))
            block, count = found.get(key, ((expand, depthwise, project), 0))
            found[key] = (block, count + 1)
    return list(found.values())


def in_torch(block: Block, input: Tensor, code: Tensor, *parameters: Tensor) -> Tensor:
    for index, layer in enumerate(block):
        dictionary, weight, bias = parameters[3 * index : 3 * index + 3]
        input = peers.matmul_then_conv(input, dictionary, code, layer)
        input = F.batch_norm(input, None, None, weight, bias, training=True)
        input = F.relu(input) if layer.activation else input
    return input


def layer_by_layer(block: Block, input: Tensor, code: Tensor, *parameters: Tensor) -> Tensor:
    """Our operators, each tensor normalised in memory."""
    for index, layer in enumerate(block):
        dictionary, weight, bias = parameters[3 * index : 3 * index + 3]
        input = KF.kshot_conv2d(input, dictionary, code, None, layer.stride, layer.padding, groups=layer.groups)
        activation = "relu" if layer.activation else "identity"
        input = KF.batch_norm_act(input, weight, bias, None, None, activation=activation)
    return input


def chained(block: Block, input: Tensor, code: Tensor, *parameters: Tensor) -> Tensor:
    norm = None
    for index, layer in enumerate(block):
        dictionary, weight, bias = parameters[3 * index : 3 * index + 3]
        input, mean, variance = KF.chained_conv2d(
            input, dictionary, code, layer.stride, layer.padding, groups=layer.groups, norm=norm
        )
        norm = KF.ChannelNorm(mean, variance, weight, bias, activation="relu" if layer.activation else "identity")
    return KF.chained_norm_act(input, norm)


def chain_contest(block: Block, batch: int, num_shots: int, place: Place = CPU) -> Contest:
    """Gradients for input, code, dictionaries and the norms' parameters, which stay in float32."""
    generator = torch.Generator().manual_seed(0)
    first, last = block[0], block[2]
    input = place.normal(generator, batch, first.in_channels, first.size, first.size)
    grad = place.normal(generator, batch, last.out_channels, last.out_size, last.out_size)
    operands = [input, place.normal(generator, num_shots).softmax(-1)]
    for layer in block:
        fan_in = torch.Size(layer.weight_shape[1:]).numel()
        operands.append(place.normal(generator, num_shots, *layer.weight_shape) * fan_in**-0.5)
        operands += [place.in_float32.normal(generator, layer.out_channels) for _ in range(2)]

    def forms(functions: dict[str, Callable[..., Tensor]], **options: bool) -> list:
        return forms_in_layouts(functions, tuple(operands), grad, _without_input_gradient, **options)

    torch_block = partial(in_torch, block)
    return Contest(
        forms({"chained_conv2d": partial(chained, block)}),
        {
            "pytorch": [
                *forms({"matmul, conv, batch_norm, relu": torch_block}),
                *forms({"compiled": compiled(torch_block)}, compiled=True),
            ],
            "layer by layer": forms({"kshot_conv2d, batch_norm_act": partial(layer_by_layer, block)}),
        },
        KINKS * place.tolerance,
    )


def _without_input_gradient(result: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """One jump of a slope is seen in a single pixel's gradient; in those of parameters it is one of many terms."""
    output, _, *of_parameters = result
    return (output, *of_parameters)


def chain_traffic(block: Block, batch: int) -> int:
    """Bytes if every raw tensor and every gradient crosses the bus as often as the links read and write it."""
    expand, _, project = block
    input = expand.in_channels * expand.size**2  # read, read, its gradient written
    hidden = expand.out_channels * (expand.size**2 + project.size**2)  # 2 forward; backward 2, its gradient 2
    output = project.out_channels * project.out_size**2  # 3 forward with the chain's end; backward 5
    return FLOAT32_BYTES * batch * (3 * input + 6 * hidden + 8 * output)


def chain_rows(layers: LayerSet) -> list[Row]:
    return rows_of_blocks(layers, chain_contest, chain_traffic, conv_operations)


def rows_of_blocks(
    layers: LayerSet,
    contest: Callable[..., Contest],
    traffic: Callable[[Block, int], int],
    operations: Callable[[ConvLayer, int], int],
) -> list[Row]:
    """A row for each block: who competes, and the bytes and operations that the batch takes at least."""
    return [
        Row(
            block[0].name.removesuffix(" expand"),
            "chain",
            ", ".join(layer.geometry for layer in block),
            count,
            partial(contest, block, layers.batch, layers.num_shots),
            traffic(block, layers.batch),
            sum(operations(layer, layers.batch) for layer in block),
        )
        for block, count in blocks_of(layers)
    ]
