"""Dynamic groups: masking while mixing against mask, mix and convolve; the exported layer against the masked one.

Half of a layer's gates are closed. "side by side" are groups as torch has them, "interleaved" ones need permutations of
channels around the exported convolution.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from benchmarks import peers
from benchmarks.forms import LAYOUTS, Contest, Form, in_layout
from benchmarks.layers import ConvLayer, LayerSet
from benchmarks.place import CPU, Place
from benchmarks.works.conv_operands import compiled, conv_operands, conv_operations, forms_in_layouts
from benchmarks.works.row import FLOAT32_BYTES, Row
from kshot_ext import functional as KF
from kshot_ext.nn import DynamicGroupConv2d
from kshot_ext.ops.dynamic_group_weight import most_group_gates

PLACEMENTS = ("side by side", "interleaved")


def half_closed(layer: ConvLayer, placement: str) -> tuple[float, ...]:
    """As many gates as the layer's channels allow."""
    count = most_group_gates(layer.out_channels, layer.in_channels)
    closed = (count + 1) // 2
    gates = (0.0,) * closed + (1.0,) * (count - closed)
    return gates if placement == "side by side" else gates[::-1]


def relation(gates: Tensor, layer: ConvLayer) -> Tensor:
    """What PyTorch multiplies the weight by, once made: `[C_out, C_in, 1, 1]`."""
    return KF.dynamic_group_weight(gates.new_ones(1, *layer.weight_shape[:2], 1, 1), gates.new_ones(1), gates)


def mix_mask_convolve(input: Tensor, dictionary: Tensor, code: Tensor, mask: Tensor, layer: ConvLayer) -> Tensor:
    return peers.convolve(input, mask * peers.mix_by_matmul(dictionary, code), layer)


def mask_mix_convolve(input: Tensor, dictionary: Tensor, code: Tensor, mask: Tensor, layer: ConvLayer) -> Tensor:
    return peers.convolve(input, peers.mix_by_matmul(mask * dictionary, code), layer)


def training_contest(layer: ConvLayer, batch: int, num_shots: int, gates: tuple[float, ...], place: Place = CPU):
    """Forward and backward, the gates as they are: the rivals' mask is made beforehand."""
    input, dictionary, code, grad = conv_operands(layer, batch, (num_shots,), place)
    closed_and_open = torch.tensor(gates, device=place.device)
    mask = relation(closed_and_open, layer).to(dictionary.dtype)

    def ours(input: Tensor, dictionary: Tensor, code: Tensor) -> Tensor:
        return KF.dynamic_group_conv2d(input, dictionary, code, closed_and_open, None, layer.stride, layer.padding)

    eager = {
        "mix, mask, conv": partial(mix_mask_convolve, mask=mask, layer=layer),
        "mask, mix, conv": partial(mask_mix_convolve, mask=mask, layer=layer),
    }
    in_graph = {"compiled mix, mask, conv": compiled(eager["mix, mask, conv"])}
    operands = (input, dictionary, code)
    peers_of_ours = [
        *forms_in_layouts(eager, operands, grad),
        *forms_in_layouts(in_graph, operands, grad, compiled=True),
    ]
    return Contest(
        forms_in_layouts({"dynamic_group_conv2d": ours}, operands, grad), {"pytorch": peers_of_ours}, place.tolerance
    )


def export_contest(layer: ConvLayer, batch: int, num_shots: int, gates: tuple[float, ...], place: Place = CPU):
    """Forward only: the exported layer against the masked one, and against a masked weight made beforehand."""
    input, dictionary, code, _ = conv_operands(layer, batch, (num_shots,), place)
    masked = DynamicGroupConv2d(
        layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, layer.padding, bias=False,
        num_shots=num_shots, device=place.device, dtype=dictionary.dtype,
    )  # fmt: skip
    with torch.no_grad():
        masked.weight.copy_(dictionary)
        masked.group_gates.copy_(torch.tensor(gates) - 0.5)
        weight = KF.dynamic_group_weight(masked.weight, code, masked.hard_gates())
    exported = masked.export(code)

    def forms(name: str, function: Callable[[Tensor], Tensor]) -> list[Form]:
        def run(image: Tensor) -> tuple[Tensor]:
            with torch.no_grad():
                return (function(image),)

        return [Form(f"{name} ({layout})", partial(run, in_layout(input, layout)), layout=layout) for layout in LAYOUTS]

    return Contest(
        forms("exported", exported),
        {
            "masked layer": forms("DynamicGroupConv2d", lambda image: masked(image, code)),
            "masked weight": forms("conv", partial(peers.convolve, weight=weight, layer=layer)),
        },
        place.tolerance,
    )


def training_traffic(layer: ConvLayer, batch: int, num_shots: int, gates: tuple[float, ...]) -> int:
    """Of the dictionary only what is not left out is read; its gradient is written whole."""
    images = 3 * batch * layer.in_channels * layer.size**2 + 2 * batch * layer.out_channels * layer.out_size**2
    copies = num_shots * torch.Size(layer.weight_shape).numel()
    return FLOAT32_BYTES * (images + 2 * copies // _groups(gates) + copies)


def export_traffic(layer: ConvLayer, batch: int, gates: tuple[float, ...]) -> int:
    images = batch * layer.in_channels * layer.size**2 + batch * layer.out_channels * layer.out_size**2
    return FLOAT32_BYTES * (images + torch.Size(layer.weight_shape).numel() // _groups(gates))


def _groups(gates: tuple[float, ...]) -> int:
    return 2 ** gates.count(0.0)


def layers_of_stages(layers: LayerSet) -> list[ConvLayer]:
    """For each size of images a 3x3 convolution on as many channels as the network's narrowest has there."""
    narrowest: dict[int, int] = {}
    for layer in layers.convolutions:
        if layer.groups == 1 and most_group_gates(layer.out_channels, layer.out_channels) > 0:
            size = layer.out_size
            narrowest[size] = min(layer.out_channels, narrowest.get(size, layer.out_channels))
    return [ConvLayer(f"3x3 at {size}", width, width, 3, size) for size, width in narrowest.items()]


def dynamic_group_rows(layers: LayerSet) -> list[Row]:
    """For each stage a training row, and one for the export of either placement."""
    return [row for layer in layers_of_stages(layers) for row in _rows_of_layer(layer, layers)]


def _rows_of_layer(layer: ConvLayer, layers: LayerSet) -> Iterator[Row]:
    for placement in PLACEMENTS:
        gates = half_closed(layer, placement)
        operands = (layer, layers.batch, layers.num_shots, gates)
        geometry = f"{layer.geometry}, {_groups(gates)} groups"
        if placement == PLACEMENTS[0]:
            yield Row(
                f"{layer.name}, training", layer.kind, geometry, 1, partial(training_contest, *operands),
                training_traffic(*operands), conv_operations(layer, layers.batch),
            )  # fmt: skip
        yield Row(
            f"{layer.name}, exported, {placement}", layer.kind, geometry, 1, partial(export_contest, *operands),
            export_traffic(layer, layers.batch, gates), 2 * layers.batch * layer.multiplications // _groups(gates),
        )  # fmt: skip
