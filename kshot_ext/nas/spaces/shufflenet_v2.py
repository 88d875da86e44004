"""The one-shot space of ShuffleNetV2 units: 20 layers of 4 operations.

Guo et al., "Single Path One-Shot Neural Architecture Search with Uniform Sampling", ECCV 2020.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from kshot_ext.nas.checks import check_at_least
from kshot_ext.nas.spaces.blocks import ShuffleUnit, conv_batch_norm, depthwise_batch_norm, pooled_classifier
from kshot_ext.nas.spaces.staged_space import LayerShape, Stage, StagedSpace
from kshot_ext.nas.spaces.width_ratios import scaled

_CHANNELS = 16
_STAGES = (Stage(64, 4, 2), Stage(160, 4, 2), Stage(320, 8, 2), Stage(640, 4, 2))
_HEAD_CHANNELS = 1024
_LEAST_LARGE_SIDE = 96
_KERNEL_SIZES = {"shuffle_k3": 3, "shuffle_k5": 5, "shuffle_k7": 7}


class ShuffleNetV2(StagedSpace):
    """4^20 networks: each layer is a ShuffleNetV2 unit of kernel 3, 5 or 7, or one with three 3x3 filters (xception).

    A 3x3 stem of ``channels`` with stride 2, stages of 4, 4, 8 and 4 searched layers, each of which halves the image,
    then a 1x1 convolution to ``64 * channels``, global average pool and a linear layer without bias. Images
    below 96x96 are not halved by stem and first stage: 32x32 becomes 4x4, as 224x224 becomes 7x7.

    As in the paper, a layer's width is the share of the channels inside its branch: what a stage hands on stays as
    it is, since half of it passes every unit by.

    Args:
        image_shape: ``(channels, height, width)`` of the images.
        num_classes: number of classes.
        channels: channels of the stem, to which all others keep their proportion; None for the published 16.
        widths: shares of the inner channels that each layer chooses from; None for none.
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
        check_at_least("channels", channels, 1)
        self.is_large = min(image_shape[1:]) >= _LEAST_LARGE_SIDE
        super().__init__(
            "shufflenet-v2",
            image_shape=image_shape,
            num_classes=num_classes,
            operations=(*_KERNEL_SIZES, "xception"),
            stem_channels=channels,
            stages=[
                Stage(
                    2 * scaled(stage.channels // 2, channels / _CHANNELS),  # two equal halves
                    stage.depth,
                    stage.stride if self.is_large or index > 0 else 1,
                )
                for index, stage in enumerate(_STAGES)
            ],
            widths=widths,
            narrow_stages=False,
        )

    def stem(self, shape: int) -> nn.Module:
        return conv_batch_norm(self.image_shape[0], shape, 3, stride=2 if self.is_large else 1)

    def candidate(self, operation: str, shape: LayerShape) -> nn.Module:
        passing = shape.in_channels // 2 if shape.keeps_shape else shape.in_channels
        inner = shape.inner(shape.out_channels // 2)
        ends = passing, inner, shape.out_channels - passing
        if operation == "xception":
            branch = _xception_branch(*ends, stride=shape.stride)
            kernel_size = 3
        else:
            kernel_size = _KERNEL_SIZES[operation]
            branch = _branch(*ends, kernel_size=kernel_size, stride=shape.stride)
        if shape.keeps_shape:
            return ShuffleUnit(branch, shortcut=None)
        shortcut = nn.Sequential(
            depthwise_batch_norm(passing, kernel_size, stride=shape.stride), conv_batch_norm(passing, passing, 1)
        )
        return ShuffleUnit(branch, shortcut)

    def head(self, shape: int) -> nn.Module:
        hidden = scaled(_HEAD_CHANNELS, self.stem_channels / _CHANNELS)
        return pooled_classifier(shape, hidden, self.num_classes, bias=False)


def _branch(in_channels: int, inner: int, out_channels: int, *, kernel_size: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        conv_batch_norm(in_channels, inner, 1),
        depthwise_batch_norm(inner, kernel_size, stride=stride),
        conv_batch_norm(inner, out_channels, 1),
    )


def _xception_branch(in_channels: int, inner: int, out_channels: int, *, stride: int) -> nn.Sequential:
    return nn.Sequential(
        depthwise_batch_norm(in_channels, 3, stride=stride),
        conv_batch_norm(in_channels, inner, 1),
        depthwise_batch_norm(inner, 3),
        conv_batch_norm(inner, inner, 1),
        depthwise_batch_norm(inner, 3),
        conv_batch_norm(inner, out_channels, 1),
    )
