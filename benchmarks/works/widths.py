"""Width fractions of a plain weight: against a layer built at that width, and against slice and copy."""

from __future__ import annotations

from functools import partial

from torch import Tensor

from benchmarks import peers
from benchmarks.forms import Contest
from benchmarks.layers import ConvLayer, LayerSet
from benchmarks.place import CPU, Place
from benchmarks.works.conv_operands import conv_operands, conv_operations, conv_traffic, forms_in_layouts
from benchmarks.works.row import Row
from kshot_ext import functional as KF

FRACTIONS = {"1/4": 0.25, "1/2": 0.5, "3/4": 0.75}


def gated_conv(input: Tensor, weight: Tensor, layer: ConvLayer) -> Tensor:
    """Ours: `layer`, of reduced width, with the weight of the full width."""
    return KF.gated_conv2d(
        input,
        weight,
        None,
        layer.stride,
        layer.padding,
        groups=weight.shape[0] if layer.kind == "depthwise" else 1,
        out_channels=layer.out_channels,
    )


def width_contest(full: ConvLayer, layer: ConvLayer, batch: int, place: Place = CPU) -> Contest:
    _, full_weight, _, _ = conv_operands(full, batch=0, place=place)
    input, _, _, grad = conv_operands(layer, batch, place=place)
    out_channels, in_channels = layer.weight_shape[:2]

    def active(result: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        output, grad_input, grad_weight = result
        return output, grad_input, grad_weight[:out_channels, :in_channels]

    exact_weight = full_weight[:out_channels, :in_channels].contiguous()

    def forms(name: str, function, weight: Tensor) -> list:
        return forms_in_layouts({name: partial(function, layer=layer)}, (input, weight), grad, values=active)

    return Contest(
        forms("width argument", gated_conv, full_weight),
        {
            "exact width": forms("exact width", peers.convolve, exact_weight),
            "slice": forms("slice, contiguous, conv", peers.slice_then_conv, full_weight),
        },
        place.tolerance,
    )


def width_rows(layers: LayerSet) -> list[Row]:
    """Each layer at each fraction of its input and output channels."""
    rows = []
    for label, fraction in FRACTIONS.items():
        for full in layers.distinct_convolutions():
            layer = full.at_width(fraction)
            rows.append(
                Row(
                    f"{full.name} x {label}",
                    layer.kind,
                    layer.geometry,
                    layer.count,
                    partial(width_contest, full, layer, layers.batch),
                    conv_traffic(layer, layers.batch, ()),
                    conv_operations(layer, layers.batch),
                )
            )
    return rows
