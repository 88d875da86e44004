"""Multiply-accumulates and parameters of a network, counted from its layers' geometry."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from kshot_ext.nas.spaces.outline import run_outline
from kshot_ext.nn.quantised import Quantised

COUNTED = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
_UNCOUNTED = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.GroupNorm, nn.LayerNorm, nn.PReLU)


COST_TITLES = {"macs": "multiply-accumulates", "parameters": "parameters", "bit_operations": "bit operations"}
"""What people call the fields of :class:`Cost`."""


@dataclass(frozen=True)
class Cost:
    """What a network costs.

    Args:
        macs: multiply-accumulates for one sample.
        parameters: trainable numbers.
        bit_operations: of quantised layers for one sample: a multiply-accumulate counts the bits of its weight times
            those of its activation. Layers in floating point count none.
    """

    macs: int
    parameters: int
    bit_operations: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.macs + other.macs, self.parameters + other.parameters, self.bit_operations + other.bit_operations
        )


def count_positions(network: nn.Module, input_shape: Sequence[int]) -> Counter[nn.Module]:
    """Counts at how many output positions each convolution and linear layer applies its weight to one sample.

    The positions depend on image sizes and strides, not on channels: so they hold for narrower networks too.

    Args:
        network: on the meta device, where a run takes no memory and draws no random number.
        input_shape: shape of one sample, without the batch dimension.

    Returns:
        Positions by layer; a layer used twice counts twice.
    """
    positions: Counter[nn.Module] = Counter()

    def count(layer: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        channel_dim = -1 if isinstance(layer, nn.Linear) else 1
        positions[layer] += output.numel() // output.shape[channel_dim]

    layers = [layer for layer in network.modules() if isinstance(layer, COUNTED)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    run_outline(network, (1, *input_shape))
    for hook in hooks:
        hook.remove()
    return positions


def cost_of(network: nn.Module, positions: Mapping[str, int]) -> Cost:
    """Counts the cost of a network for one sample.

    Convolutions and linear layers count ``weight elements * output positions`` multiply-accumulates;
    biases, normalisation, activations and pooling count none, as in the tables of NAS-Bench-Macro (Su et al.,
    CVPR 2021).

    Args:
        network: any module.
        positions: output positions of each layer, by its name in the network; 0 for those not named.

    Raises:
        TypeError: if a layer with parameters is of a kind this function has no rule for.

    Example:
        >>> cost_of(nn.Sequential(nn.Conv2d(3, 8, 3, bias=False)), {"0": 16})
        Cost(macs=3456, parameters=216, bit_operations=0)
    """
    macs = bit_operations = 0
    for name, layer in network.named_modules():
        if isinstance(layer, COUNTED):
            layer_macs = layer.weight.numel() * positions.get(name, 0)
            macs += layer_macs
            if isinstance(layer, Quantised):
                bit_operations += layer_macs * layer.weight_bits * layer.activation_bits
        elif next(layer.parameters(recurse=False), None) is not None and not isinstance(layer, _UNCOUNTED):
            raise TypeError(f"layer {name!r}: no rule to count the multiply-accumulates of {type(layer).__name__}")
    return Cost(macs, sum(parameter.numel() for parameter in network.parameters()), bit_operations)
