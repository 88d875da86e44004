"""NAS-Bench-Macro: eight layers of three operations, small enough that every network's accuracy is published.

Su et al., "Prioritized Architecture Sampling with Monto-Carlo Tree Search", CVPR 2021.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from kshot_ext.nas.spaces.blocks import InvertedResidual, conv_batch_norm, identity, pooled_classifier
from kshot_ext.nas.spaces.staged_space import LayerShape, Stage, StagedSpace, multiplied

_CHANNELS = 32
_STAGES = (Stage(64, 2, 2), Stage(128, 3, 2), Stage(256, 3, 2))
_HEAD_FACTOR = 40
_EXPANSION_AND_KERNEL = {"mb3_k3": (3, 3), "mb6_k5": (6, 5)}


class NASBenchMacro(StagedSpace):
    """3^8 networks: each layer is an identity or an inverted residual block (expansion 3, kernel 3; or 6, 5).

    A 3x3 stem of ``channels``, stages of 2, 3 and 3 searched layers whose first halves the image and doubles
    the channels, then a 1x1 convolution to ``40 * channels``, global average pool and a linear layer.

    Args:
        image_shape: ``(channels, height, width)`` of the images.
        num_classes: number of classes.
        channels: channels of the stem. 32 at 32x32 is the published network; None takes 32 for images of at
            least 24x24 and 8 for smaller ones.
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
        if channels is None:
            channels = _CHANNELS if min(image_shape[1:]) >= 24 else 8
        super().__init__(
            "nas-bench-macro",
            image_shape=image_shape,
            num_classes=num_classes,
            operations=("identity", *_EXPANSION_AND_KERNEL),
            stem_channels=channels,
            stages=multiplied(_STAGES, channels, _CHANNELS),
            widths=widths,
        )
        self.channels = channels

    def stem(self, shape: int) -> nn.Module:
        return conv_batch_norm(self.image_shape[0], shape, 3)

    def candidate(self, operation: str, shape: LayerShape) -> nn.Module:
        if operation == "identity":
            return identity(shape.in_channels, shape.out_channels, stride=shape.stride, keeps_shape=shape.keeps_shape)
        expansion, kernel_size = _EXPANSION_AND_KERNEL[operation]
        return InvertedResidual(
            shape.in_channels,
            shape.inner(expansion * shape.full_in_channels),
            shape.out_channels,
            kernel_size=kernel_size,
            stride=shape.stride,
            shortcut=shape.keeps_shape,
        )

    def head(self, shape: int) -> nn.Module:
        return pooled_classifier(shape, _HEAD_FACTOR * self.channels, self.num_classes)
