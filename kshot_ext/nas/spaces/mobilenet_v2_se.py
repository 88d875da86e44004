"""MobileNetV2 with squeeze-excite: 21 layers of 13 operations.

The layers are those of Cai et al., "ProxylessNAS: Direct Neural Architecture Search on Target Task and Hardware",
ICLR 2019; the 13 operations those of You et al., "GreedyNAS: Towards Fast One-Shot NAS with Greedy Supernet",
CVPR 2020, and of K-shot NAS.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

from torch import nn

from kshot_ext.nas.spaces.blocks import (
    InvertedResidual,
    conv_batch_norm,
    depthwise_batch_norm,
    identity,
    pooled_classifier,
)
from kshot_ext.nas.spaces.staged_space import LayerShape, Stage, StagedSpace, multiplied
from kshot_ext.nas.spaces.width_ratios import scaled

_CHANNELS = 32
_STEM_CHANNELS = 16
_STAGES = (Stage(32, 4, 2), Stage(40, 4, 2), Stage(80, 4, 2), Stage(96, 4, 1), Stage(192, 4, 2), Stage(320, 1, 1))
_HEAD_CHANNELS = 1280
_SQUEEZE = 4
_LEAST_LARGE_SIDE = 96
_BLOCKS = {
    f"mb{expansion}_k{kernel_size}{'_se' if squeeze else ''}": (expansion, kernel_size, squeeze)
    for squeeze, expansion, kernel_size in product((False, True), (3, 6), (3, 5, 7))
}


class MobileNetV2SE(StagedSpace):
    """13^21 networks: each layer is an identity or an inverted residual block, with or without squeeze-excite.

    Expansion 3 or 6, kernel 3, 5 or 7; squeeze-excite to a quarter of the inner channels. An identity that would have
    to change the shape is a 1x1 convolution with batch norm, as in NAS-Bench-Macro. Before the searched layers come
    a 3x3 convolution of ``channels`` with stride 2 and a block without expansion to half of them; behind them a 1x1
    convolution to ``40 * channels``, global average pool and a linear layer. Activations are ReLU6.

    Images below 96x96 are not halved by the first convolution and the first stage: 32x32 becomes 4x4, as
    224x224 becomes 7x7.

    Args:
        image_shape: ``(channels, height, width)`` of the images.
        num_classes: number of classes.
        channels: channels of the first convolution, to which all others keep their proportion; None for the
            published 32.
        widths: shares of the full width that each layer chooses from, see `StagedSpace`; None for none.
    """

    def __init__(
        self,
        *,
        image_shape: tuple[int, int, int],
        num_classes: int,
        channels: int | None = None,
        widths: Sequence[float] | None = None,
    ) -> None:
        channels = _CHANNELS if channels is None else channels
        self.is_large = min(image_shape[1:]) >= _LEAST_LARGE_SIDE
        first, *others = _STAGES
        stages = (first if self.is_large else Stage(first.channels, first.depth, 1), *others)
        super().__init__(
            "mobilenet-v2-se",
            image_shape=image_shape,
            num_classes=num_classes,
            operations=("identity", *_BLOCKS),
            stem_channels=scaled(_STEM_CHANNELS, channels / _CHANNELS),
            stages=multiplied(stages, channels, _CHANNELS),
            widths=widths,
        )
        self.channels = channels

    def values(self, operation: str) -> tuple[str, ...]:
        """Expansion, kernel and whether there is squeeze-excite; an identity has neither."""
        if operation == "identity":
            return (operation,)
        expansion, kernel_size, squeeze = _BLOCKS[operation]
        return f"expansion {expansion}", f"kernel {kernel_size}", f"squeeze {squeeze}"

    def stem(self, shape: int) -> nn.Module:
        stride = 2 if self.is_large else 1
        return nn.Sequential(
            conv_batch_norm(self.image_shape[0], self.channels, 3, stride=stride, activation=nn.ReLU6),
            depthwise_batch_norm(self.channels, 3, activation=nn.ReLU6),
            conv_batch_norm(self.channels, shape, 1, activation=None),
        )

    def candidate(self, operation: str, shape: LayerShape) -> nn.Module:
        if operation == "identity":
            return identity(shape.in_channels, shape.out_channels, stride=shape.stride, keeps_shape=shape.keeps_shape)
        expansion, kernel_size, squeeze = _BLOCKS[operation]
        inner = shape.inner(expansion * shape.full_in_channels)
        return InvertedResidual(
            shape.in_channels,
            inner,
            shape.out_channels,
            kernel_size=kernel_size,
            stride=shape.stride,
            shortcut=shape.keeps_shape,
            squeezed=scaled(inner, 1 / _SQUEEZE) if squeeze else None,
            activation=nn.ReLU6,
        )

    def head(self, shape: int) -> nn.Module:
        hidden = scaled(_HEAD_CHANNELS, self.channels / _CHANNELS)
        return pooled_classifier(shape, hidden, self.num_classes, activation=nn.ReLU6)
