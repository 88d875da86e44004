"""NAS-Bench-Macro: eight layers of three operations, small enough that every network's accuracy is published.

Su et al., "Prioritized Architecture Sampling with Monto-Carlo Tree Search", CVPR 2021.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from kshot_ext.nas.blocks import InvertedResidual, conv_batch_norm, identity, pooled_classifier
from kshot_ext.nas.space import SearchSpace

_LAYERS_PER_STAGE = (2, 3, 3)
_HEAD_FACTOR = 40
_INVERTED_RESIDUALS = {
    "mb3_k3": {"expansion": 3, "kernel_size": 3},
    "mb6_k5": {"expansion": 6, "kernel_size": 5},
}


@dataclass(frozen=True)
class _LayerShape:
    in_channels: int
    out_channels: int
    stride: int


class NASBenchMacro(SearchSpace):
    """3^8 networks: each layer is an identity or an inverted residual block (expansion 3, kernel 3; or 6, 5).

    A 3x3 stem of ``channels``, stages of 2, 3 and 3 searched layers whose first halves the image and doubles
    the channels, then a 1x1 convolution to ``40 * channels``, global average pool and a linear layer.

    Args:
        image_shape: ``(channels, height, width)`` of the images.
        num_classes: number of classes.
        channels: channels of the stem. 32 at 32x32 is the published network; None takes 32 for images of at
            least 24x24 and 8 for smaller ones.
    """

    def __init__(self, *, image_shape: tuple[int, int, int], num_classes: int, channels: int | None = None) -> None:
        super().__init__(
            "nas-bench-macro",
            image_shape=image_shape,
            num_classes=num_classes,
            operations=[("identity", *_INVERTED_RESIDUALS)] * sum(_LAYERS_PER_STAGE),
        )
        if channels is None:
            channels = 32 if min(image_shape[1:]) >= 24 else 8
        if channels < 1:
            raise ValueError(f"channels: expected at least 1, got {channels}")
        self.channels = channels
        self._layers = _layer_shapes(channels)

    def stem(self) -> nn.Module:
        return conv_batch_norm(self.image_shape[0], self.channels, 3)

    def candidate(self, layer: int, operation: int) -> nn.Module:
        shape = self._layers[layer]
        name = self.operations(layer)[operation]
        if name == "identity":
            return identity(shape.in_channels, shape.out_channels, stride=shape.stride)
        return InvertedResidual(shape.in_channels, shape.out_channels, stride=shape.stride, **_INVERTED_RESIDUALS[name])

    def head(self) -> nn.Module:
        return pooled_classifier(self._layers[-1].out_channels, _HEAD_FACTOR * self.channels, self.num_classes)


def _layer_shapes(channels: int) -> tuple[_LayerShape, ...]:
    shapes = []
    for num_layers in _LAYERS_PER_STAGE:
        shapes.append(_LayerShape(channels, 2 * channels, stride=2))
        channels *= 2
        shapes += [_LayerShape(channels, channels, stride=1)] * (num_layers - 1)
    return tuple(shapes)
