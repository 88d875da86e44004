"""Inverted residual blocks with split attention, whose number of splits is searched.

Split attention is that of Zhang et al., "ResNeSt: Split-Attention Networks", CVPR Workshops 2022. To search the number
of splits in such blocks is from Yan et al., "FP-NAS: Fast Probabilistic Neural Architecture Search", CVPR 2021.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

from torch import Tensor, nn

from kshot_ext.nas.spaces.blocks import conv_batch_norm, depthwise_batch_norm, pooled_classifier
from kshot_ext.nas.spaces.staged_space import LayerShape, Stage, StagedSpace, multiplied
from kshot_ext.nas.spaces.width_ratios import scaled

_CHANNELS = 16
_STAGES = (Stage(24, 2, 1), Stage(48, 3, 2), Stage(96, 3, 2))
_HEAD_FACTOR = 20
_SQUEEZE = 4
_BLOCKS = {
    f"k{kernel_size}_e{expansion}_s{splits}": (kernel_size, expansion, splits)
    for kernel_size, expansion, splits in product((3, 5), (3, 6), (1, 2, 4))
}


class SplitAttention(nn.Module):
    """Joins several versions of each channel by weights that all channels' means decide:

        output_c = sum_s attention_cs * input_cs,    attention = softmax over s; with one split, sigmoid

    which then is squeeze-excite. The splits of a channel lie side by side, so leading channels have all of theirs.

    Args:
        channels: C, of the output ``[N, C, H, W]``.
        splits: S; the input is ``[N, C * S, H, W]``.
        squeezed: channels between the two convolutions that decide.
    """

    def __init__(self, channels: int, splits: int, squeezed: int) -> None:
        super().__init__()
        self.splits = splits
        self.scores = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, squeezed, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(squeezed, channels * splits, 1),
        )

    def forward(self, input: Tensor) -> Tensor:
        if self.splits == 1:
            return input * self.scores(input).sigmoid()
        parts = input.unflatten(1, (-1, self.splits))
        attention = self.scores(parts.sum(dim=2)).unflatten(1, (-1, self.splits)).softmax(dim=2)
        return (parts * attention).sum(dim=2)


class SplitAttentionBlock(nn.Module):
    """Expand by a 1x1 convolution to all splits, filter each channel, join the splits, project back.

    Args:
        in_channels: channels of the input ``[N, in_channels, H, W]``.
        inner_channels: channels of each split.
        out_channels: channels of the output.
        kernel_size: side of the depthwise kernel, odd.
        splits: versions of each channel.
        stride: step of the depthwise kernel.
        shortcut: whether the input is added to the output.
    """

    def __init__(
        self,
        in_channels: int,
        inner_channels: int,
        out_channels: int,
        *,
        kernel_size: int,
        splits: int,
        stride: int,
        shortcut: bool,
    ) -> None:
        super().__init__()
        self.expand = conv_batch_norm(in_channels, inner_channels * splits, 1)
        self.depthwise = depthwise_batch_norm(inner_channels * splits, kernel_size, stride=stride, activation=nn.ReLU)
        self.attend = SplitAttention(inner_channels, splits, scaled(inner_channels, 1 / _SQUEEZE))
        self.project = conv_batch_norm(inner_channels, out_channels, 1, activation=None)
        self.has_shortcut = shortcut

    def forward(self, input: Tensor) -> Tensor:
        output = self.project(self.attend(self.depthwise(self.expand(input))))
        return input + output if self.has_shortcut else output


class SplitAttentionSpace(StagedSpace):
    """12^8 networks: each layer has a kernel of 3 or 5, an expansion of 3 or 6, and 1, 2 or 4 splits.

    A 3x3 stem of ``channels``, stages of 2, 3 and 3 searched layers of 1.5, 3 and 6 times as many, then a 1x1
    convolution to ``20 * channels``, global average pool and a linear layer; the last two stages halve the image. It is
    the smallest space of its kind, not a published one: stages, channels and activations are ours.

    Args:
        image_shape: ``(channels, height, width)`` of the images.
        num_classes: number of classes.
        channels: channels of the stem; None for 16.
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
        super().__init__(
            "split-attention",
            image_shape=image_shape,
            num_classes=num_classes,
            operations=tuple(_BLOCKS),
            stem_channels=channels,
            stages=multiplied(_STAGES, channels, _CHANNELS),
            widths=widths,
        )
        self.channels = channels

    def values(self, operation: str) -> tuple[str, ...]:
        """Kernel, expansion and splits."""
        return tuple(operation.split("_"))

    def stem(self, shape: int) -> nn.Module:
        return conv_batch_norm(self.image_shape[0], shape, 3)

    def candidate(self, operation: str, shape: LayerShape) -> nn.Module:
        kernel_size, expansion, splits = _BLOCKS[operation]
        return SplitAttentionBlock(
            shape.in_channels,
            shape.inner(expansion * shape.full_in_channels),
            shape.out_channels,
            kernel_size=kernel_size,
            splits=splits,
            stride=shape.stride,
            shortcut=shape.keeps_shape,
        )

    def head(self, shape: int) -> nn.Module:
        return pooled_classifier(shape, _HEAD_FACTOR * self.channels, self.num_classes)
