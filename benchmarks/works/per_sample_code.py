"""One code per sample: against PyTorch's forms, and "auto" against each algorithm."""

from __future__ import annotations

from functools import partial

from benchmarks import peers
from benchmarks.forms import Contest
from benchmarks.layers import ConvLayer, LayerSet
from benchmarks.place import CPU, Place
from benchmarks.works.conv_operands import compiled, conv_operands, forms_in_layouts
from benchmarks.works.row import Row
from benchmarks.works.shared_code import algorithm_forms, conv_row


def per_sample_code_contest(layer: ConvLayer, batch: int, code_shape: tuple[int, ...], place: Place = CPU) -> Contest:
    input, dictionary, code, grad = conv_operands(layer, batch, code_shape, place)
    operands = (input, dictionary, code)
    eager = {name: partial(peer, layer=layer) for name, peer in peers.PER_SAMPLE_CODE.items()}
    in_graph = {"compiled matmul, grouped conv": compiled(partial(peers.matmul_then_grouped_conv, layer=layer))}
    auto, forced = algorithm_forms(layer, operands, grad)
    rivals = [
        *forms_in_layouts(eager, operands, grad),
        *forms_in_layouts(in_graph, operands, grad, compiled=True),
    ]
    return Contest(auto, {"pytorch": rivals, "algorithm": forced}, place.tolerance)


def per_sample_code_rows(layers: LayerSet) -> list[Row]:
    """Code `[N, K]`."""
    return [
        conv_row(layer, layers.batch, (layers.batch, layers.num_shots), per_sample_code_contest)
        for layer in layers.distinct_convolutions()
    ]
