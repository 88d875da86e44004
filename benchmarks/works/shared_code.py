"""One code for the batch: against PyTorch, against one plain weight, and "auto" against each algorithm."""

from __future__ import annotations

from functools import partial

from torch import Tensor

from benchmarks import peers
from benchmarks.forms import Contest
from benchmarks.layers import ConvLayer, LayerSet
from benchmarks.place import CPU, Place
from benchmarks.works.conv_operands import (
    compiled,
    conv_operands,
    conv_operations,
    conv_traffic,
    forms_in_layouts,
)
from benchmarks.works.row import Row
from kshot_ext import functional as KF


def kshot_conv(input: Tensor, dictionary: Tensor, code: Tensor, layer: ConvLayer, algorithm: str) -> Tensor:
    """Ours."""
    return KF.kshot_conv2d(
        input, dictionary, code, None, layer.stride, layer.padding, groups=layer.groups, algorithm=algorithm
    )


def conv_row(layer: ConvLayer, batch: int, code_shape: tuple[int, ...], contest) -> Row:
    return Row(
        layer.name,
        layer.kind,
        layer.geometry,
        layer.count,
        partial(contest, layer, batch, code_shape),
        conv_traffic(layer, batch, code_shape),
        conv_operations(layer, batch),
    )


def algorithm_forms(layer: ConvLayer, operands: tuple[Tensor, ...], grad: Tensor) -> tuple[list, list]:
    """Forms of ours: those of "auto", and those that force an algorithm."""
    auto = {"auto": partial(kshot_conv, layer=layer, algorithm="auto")}
    forced = {name: partial(kshot_conv, layer=layer, algorithm=name) for name in ("mix_then_conv", "fused")}
    return (
        forms_in_layouts(auto, operands, grad),
        forms_in_layouts(forced, operands, grad, optional=True),
    )


def shared_code_contest(layer: ConvLayer, batch: int, code_shape: tuple[int, ...], place: Place = CPU) -> Contest:
    input, dictionary, code, grad = conv_operands(layer, batch, code_shape, place)
    operands = (input, dictionary, code)
    eager = {name: partial(peer, layer=layer) for name, peer in peers.SHARED_CODE.items()}
    in_graph = {"compiled matmul, conv": compiled(partial(peers.matmul_then_conv, layer=layer))}
    auto, forced = algorithm_forms(layer, operands, grad)
    weight = peers.mix_by_matmul(dictionary, code).contiguous()
    plain = {"one weight": partial(peers.convolve, layer=layer)}
    return Contest(
        auto,
        {
            "pytorch": [
                *forms_in_layouts(eager, operands, grad),
                *forms_in_layouts(in_graph, operands, grad, compiled=True),
            ],
            "one weight": forms_in_layouts(plain, (input, weight), grad, values=_output_and_input_gradient),
            "algorithm": forced,
        },
        place.tolerance,
    )


def _output_and_input_gradient(result: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return result[:2]  # the gradients of one weight and of a dictionary are different things


def shared_code_rows(layers: LayerSet) -> list[Row]:
    """Code `[K]`."""
    return [
        conv_row(layer, layers.batch, (layers.num_shots,), shared_code_contest)
        for layer in layers.distinct_convolutions()
    ]
