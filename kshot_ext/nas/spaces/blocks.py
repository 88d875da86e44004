"""Building blocks of search spaces, in plain ``torch.nn``: the supernet converts them, export keeps them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kshot_ext.nn.deferred import JoinedChannels, Value, finished
from kshot_ext.nn.fused_form import TakesValues
from kshot_ext.ops.channel_split import even_and_odd_channels


def conv_batch_norm(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    *,
    stride: int = 1,
    groups: int = 1,
    activation: type[nn.Module] | None = nn.ReLU,
) -> nn.Sequential:
    """Convolution without bias, padded to keep the size at stride 1, then batch norm, then an activation.

    Args:
        in_channels: channels of the input ``[N, in_channels, H, W]``.
        out_channels: channels of the output.
        kernel_size: side of the kernel, odd.
        stride: step of the kernel.
        groups: channel groups; ``in_channels`` for a depthwise convolution.
        activation: kind of the activation, such as ``nn.ReLU``; None for none.
    """
    layers: list[nn.Module] = [
        nn.Conv2d(
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            padding=kernel_size // 2,
            groups=groups,
            bias=False,
        ),
        nn.BatchNorm2d(out_channels),
    ]
    if activation is not None:
        layers.append(activation(inplace=True))
    return nn.Sequential(*layers)


def depthwise_batch_norm(
    channels: int, kernel_size: int, *, stride: int = 1, activation: type[nn.Module] | None = None
) -> nn.Sequential:
    """:func:`conv_batch_norm` that filters each channel by itself."""
    return conv_batch_norm(channels, channels, kernel_size, stride=stride, groups=channels, activation=activation)


class SqueezeExcite(nn.Module):
    """Scales each channel by a factor that two 1x1 convolutions compute from all channels' means.

    Hu et al., "Squeeze-and-Excitation Networks", CVPR 2018.

    Args:
        channels: channels of the input ``[N, channels, H, W]``.
        squeezed: channels between the convolutions.
    """

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.factors = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, squeezed, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(squeezed, channels, 1),
            nn.Sigmoid(),
        )

    def forward(self, input: Tensor) -> Tensor:
        return input * self.factors(input)


class InvertedResidual(nn.Module):
    """MobileNetV2's block: expand by a 1x1 convolution, filter each channel, project back.

    Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018.

    Args:
        in_channels: channels of the input ``[N, in_channels, H, W]``.
        inner_channels: channels between the 1x1 convolutions.
        out_channels: channels of the output.
        kernel_size: side of the depthwise kernel, odd.
        stride: step of the depthwise kernel.
        shortcut: whether the input is added to the output.
        squeezed: channels of a squeeze-excite layer before the projection; None for none.
        activation: kind of the activations.
    """

    def __init__(
        self,
        in_channels: int,
        inner_channels: int,
        out_channels: int,
        *,
        kernel_size: int,
        stride: int,
        shortcut: bool,
        squeezed: int | None = None,
        activation: type[nn.Module] = nn.ReLU,
    ) -> None:
        super().__init__()
        self.expand = conv_batch_norm(in_channels, inner_channels, 1, activation=activation)
        self.depthwise = depthwise_batch_norm(inner_channels, kernel_size, stride=stride, activation=activation)
        self.excite = nn.Identity() if squeezed is None else SqueezeExcite(inner_channels, squeezed)
        self.project = conv_batch_norm(inner_channels, out_channels, 1, activation=None)
        self.has_shortcut = shortcut

    def forward(self, input: Tensor) -> Tensor:
        inner = self.excite(self.depthwise(self.expand(input)))
        output = self.project(inner)
        return input + output if self.has_shortcut else output


class ShuffleUnit(TakesValues):
    """ShuffleNetV2's unit: a part of the channels passes by, the rest is worked on, both are joined.

    Ma et al., "ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture Design", ECCV 2018.

    Args:
        branch: works on its part.
        shortcut: works on the other part, where the image size or the channels change: both then get the whole
            input. None where they do not: the odd channels are worked on and the even ones pass by, which
            mixes the parts of the previous unit.
    """

    def __init__(self, branch: nn.Module, shortcut: nn.Module | None) -> None:
        super().__init__()
        self.branch = branch
        self.shortcut = shortcut

    def forward(self, input: Tensor) -> Tensor:
        return torch.cat(self._parts(input), dim=1)

    def run(self, value: Value) -> JoinedChannels:
        """The unit's parts, not joined: the next unit, which takes them apart again, reads them where they are."""
        if isinstance(value, JoinedChannels) and self.shortcut is None:
            return JoinedChannels(*self._parts(value.first, value.second))
        return JoinedChannels(*self._parts(finished(value)))

    def _parts(self, input: Tensor, behind: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """What passes by, and what was worked on; channels of `behind` count behind those of the input."""
        if self.shortcut is None:
            passing, worked_on = even_and_odd_channels(input, behind)
        else:
            passing, worked_on = self.shortcut(input), input
        return passing, self.branch(worked_on)


class Zero(nn.Module):
    """Gives zeros of the input's shape: no connection."""

    def forward(self, input: Tensor) -> Tensor:
        return torch.zeros_like(input)


def identity(in_channels: int, out_channels: int, *, stride: int, keeps_shape: bool) -> nn.Module:
    """Passes the input on; where the shape changes, a 1x1 convolution and batch norm stand in."""
    if keeps_shape:
        return nn.Identity()
    return conv_batch_norm(in_channels, out_channels, 1, stride=stride, activation=None)


def pooled_classifier(
    in_channels: int,
    hidden_channels: int,
    num_classes: int,
    *,
    activation: type[nn.Module] = nn.ReLU,
    bias: bool = True,
) -> nn.Sequential:
    """1x1 convolution with batch norm and activation, global average pool, linear layer to the class scores."""
    return nn.Sequential(
        conv_batch_norm(in_channels, hidden_channels, 1, activation=activation),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(hidden_channels, num_classes, bias=bias),
    )
