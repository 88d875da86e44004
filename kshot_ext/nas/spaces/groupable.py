"""Residual blocks whose 3x3 convolutions choose how many groups they have.

After Zhang et al., "Differentiable Learning-to-Group Channels via Groupable Convolutional Neural Networks", ICCV 2019,
who learn the groups of ResNeXt's 3x3 convolutions.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from kshot_ext.nas.checks import check_at_least
from kshot_ext.nas.spaces.blocks import conv_batch_norm, pooled_classifier
from kshot_ext.nas.spaces.staged_space import LayerShape, Stage, StagedSpace, multiplied

_CHANNELS, _SMALL_CHANNELS = 32, 16
_STAGES = (Stage(32, 2, 1), Stage(64, 2, 2), Stage(128, 2, 2))
_MOST_GROUPS = 16
_PREFIX = "groups_"


class Groupable(StagedSpace):
    """5^6 networks: each layer is a block whose 3x3 convolution has 1, 2, 4, 8 or 16 groups.

    A 3x3 stem of ``channels``, three stages of two layers, of which the second and the third halve the image and double
    the channels, then a 1x1 convolution to ``4 * channels``, global average pool and a linear layer. Where the
    channels are no multiple of 16, layers offer as many groups as divide them.

    Args:
        image_shape: ``(channels, height, width)`` of the images.
        num_classes: number of classes.
        channels: channels of the stem, even; None takes 32 for images of at least 24x24 and 16 for smaller ones.
        widths: must be None: a narrower block could not have the same groups.
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
            channels = _CHANNELS if min(image_shape[1:]) >= 24 else _SMALL_CHANNELS
        check_at_least("channels", channels, 2)
        if channels % 2:
            raise ValueError(f"channels: expected an even number, as groups are of equal size, got {channels}")
        if widths is not None:
            raise ValueError(
                f"widths: space groupable has none, as narrow layers could not keep their groups, got {tuple(widths)}"
            )
        most = min(_MOST_GROUPS, channels & -channels)
        super().__init__(
            "groupable",
            image_shape=image_shape,
            num_classes=num_classes,
            operations=[f"{_PREFIX}{1 << power}" for power in range(most.bit_length())],
            stem_channels=channels,
            stages=multiplied(_STAGES, channels, _CHANNELS),
        )
        self.channels = channels

    def stem(self, shape: int) -> nn.Module:
        return conv_batch_norm(self.image_shape[0], shape, 3)

    def candidate(self, operation: str, shape: LayerShape) -> nn.Module:
        return GroupableBlock(
            shape.in_channels,
            shape.out_channels,
            groups=int(operation.removeprefix(_PREFIX)),
            stride=shape.stride,
            shortcut=shape.keeps_shape,
        )

    def head(self, shape: int) -> nn.Module:
        return pooled_classifier(shape, 4 * self.channels, self.num_classes)


class GroupableBlock(nn.Module):
    """A 1x1 convolution, a 3x3 one in groups, and a 1x1 one, each with batch norm; ResNeXt's block without bottleneck.

    The 1x1 convolutions can permute channels, so it does not matter which of them a group holds.

    Args:
        in_channels, out_channels: channels of input and output; inside there are as many as of the output.
        groups: of the 3x3 convolution, ``grouped[0]``.
        stride: step of the 3x3 convolution.
        shortcut: whether the input is added to the output.
    """

    def __init__(self, in_channels: int, out_channels: int, *, groups: int, stride: int, shortcut: bool) -> None:
        super().__init__()
        self.before = conv_batch_norm(in_channels, out_channels, 1)
        self.grouped = conv_batch_norm(out_channels, out_channels, 3, stride=stride, groups=groups)
        self.after = conv_batch_norm(out_channels, out_channels, 1, activation=None)
        self.has_shortcut = shortcut
        self.activation = nn.ReLU(inplace=True)

    def forward(self, input: Tensor) -> Tensor:
        output = self.after(self.grouped(self.before(input)))
        return self.activation(input + output if self.has_shortcut else output)
