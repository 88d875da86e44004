"""Inverted residuals in evaluation, their batch norms folded: against torch's convolutions with folded weights.

PyTorch's form folds norms, and mixes copies, beforehand; ours does both in every call, as "folded in each call" does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.forms import LAYOUTS, Contest, Form, in_layout
from benchmarks.layers import LayerSet
from benchmarks.place import CPU, Place
from benchmarks.works.chain import Block, rows_of_blocks
from benchmarks.works.conv_operands import compiled
from benchmarks.works.row import FLOAT32_BYTES, Row
from kshot_ext import functional as KF
from kshot_ext.functional import ChannelNorm

EPS = 1e-5
Layers = Sequence[tuple[Tensor, ChannelNorm]]


def _activation(norm: ChannelNorm) -> Callable[[Tensor], Tensor]:
    return F.relu_ if norm.activation == "relu" else lambda x: x


def folded_beforehand(layers: Layers, code: Tensor) -> list[tuple[Tensor, Tensor]]:
    """One weight and one bias for each layer, in the dtype of its dictionary."""
    found = []
    for dictionary, norm in layers:
        scale = norm.weight / (norm.variance + EPS).sqrt()
        weight = torch.einsum("k,koihw->oihw", code.float(), dictionary.float()) * scale.reshape(-1, 1, 1, 1)
        found.append((weight.to(dictionary.dtype), (norm.bias - norm.mean * scale).to(dictionary.dtype)))
    return found


def in_torch(block: Block, layers: Layers, folded: Sequence[tuple[Tensor, Tensor]], image: Tensor) -> Tensor:
    for layer, (_, norm), (weight, bias) in zip(block, layers, folded):
        image = _activation(norm)(F.conv2d(image, weight, bias, layer.stride, layer.padding, groups=layer.groups))
    return image


def folded_in_each_call(block: Block, layers: Layers, code: Tensor, image: Tensor) -> Tensor:
    return in_torch(block, layers, folded_beforehand(layers, code), image)


def layer_by_layer(block: Block, layers: Layers, code: Tensor, image: Tensor) -> Tensor:
    for layer, (dictionary, norm) in zip(block, layers):
        raw = KF.kshot_conv2d(image, dictionary, code, None, layer.stride, layer.padding, groups=layer.groups)
        statistics = norm.weight, norm.bias, norm.mean, norm.variance
        image = KF.batch_norm_act(raw, *statistics, training=False, eps=EPS, activation=norm.activation)
    return image


def in_our_links(block: Block, layers: Layers, code: Tensor, image: Tensor) -> Tensor:
    for layer, (dictionary, norm) in zip(block, layers):
        image = KF.folded_conv2d(image, dictionary, code, norm, layer.stride, layer.padding, groups=layer.groups)
    return image


def evaluation_contest(block: Block, batch: int, num_shots: int, place: Place = CPU) -> Contest:
    """Statistics and parameters of the norms stay in float32."""
    generator = torch.Generator().manual_seed(0)
    image = place.normal(generator, batch, block[0].in_channels, block[0].size, block[0].size)
    code = place.normal(generator, num_shots).softmax(-1)
    layers = []
    for layer in block:
        fan_in = torch.Size(layer.weight_shape[1:]).numel()
        dictionary = place.normal(generator, num_shots, *layer.weight_shape) * fan_in**-0.5
        mean, spread, weight, bias = (place.in_float32.normal(generator, layer.out_channels) for _ in range(4))
        norm = ChannelNorm(mean, spread.square() + 0.5, weight, bias, EPS, "relu" if layer.activation else "identity")
        layers.append((dictionary, norm))

    def forms(name: str, function: Callable[..., Callable], **options: bool) -> list[Form]:
        found = []
        for layout in LAYOUTS:
            laid_out = [(in_layout(dictionary, layout), norm) for dictionary, norm in layers]
            run = _without_gradients(function(laid_out, layout), in_layout(image, layout))
            found.append(Form(f"{name} ({layout})", run, layout=layout, **options))
        return found

    def torch_form(laid_out: Layers, layout: str) -> Callable[[Tensor], Tensor]:
        folded = [(in_layout(weight, layout), bias) for weight, bias in folded_beforehand(laid_out, code)]
        return partial(in_torch, block, laid_out, folded)

    return Contest(
        forms("folded_conv2d", lambda laid_out, _: partial(in_our_links, block, laid_out, code)),
        {
            "pytorch": [
                *forms("folded conv, relu", torch_form),
                *forms("compiled", lambda *laid_out: compiled(torch_form(*laid_out)), compiled=True),
            ],
            "folded in each call": forms(
                "fold, conv, relu", lambda laid_out, _: partial(folded_in_each_call, block, laid_out, code)
            ),
            "layer by layer": forms(
                "kshot_conv2d, batch_norm_act", lambda laid_out, _: partial(layer_by_layer, block, laid_out, code)
            ),
        },
        place.tolerance,
    )


def _without_gradients(function: Callable[[Tensor], Tensor], image: Tensor) -> Callable[[], tuple[Tensor]]:
    def run() -> tuple[Tensor]:
        with torch.no_grad():
            return (function(image),)

    return run


def evaluation_traffic(block: Block, batch: int) -> int:
    """Bytes if each tensor between the convolutions is written once and read once."""
    expand, _, project = block
    hidden = expand.out_channels * (expand.size**2 + project.size**2)
    ends = expand.in_channels * expand.size**2 + project.out_channels * project.out_size**2
    return FLOAT32_BYTES * batch * (ends + 2 * hidden)


def chain_evaluation_rows(layers: LayerSet) -> list[Row]:
    return rows_of_blocks(
        layers, evaluation_contest, evaluation_traffic, lambda layer, batch: 2 * batch * layer.multiplications
    )
