"""Building blocks of search spaces, in plain ``torch.nn``: the supernet converts them, export keeps them."""

from __future__ import annotations

from torch import Tensor, nn


def conv_batch_norm(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    *,
    stride: int = 1,
    groups: int = 1,
    activation: bool = True,
) -> nn.Sequential:
    """Convolution without bias, padded to keep the size at stride 1, then batch norm, then ReLU if asked for.

    Args:
        in_channels: channels of the input ``[N, in_channels, H, W]``.
        out_channels: channels of the output.
        kernel_size: side of the kernel, odd.
        stride: step of the kernel.
        groups: channel groups; ``in_channels`` for a depthwise convolution.
        activation: whether a ReLU follows.
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
    if activation:
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)


class InvertedResidual(nn.Module):
    """MobileNetV2's block: expand by a 1x1 convolution, filter each channel, project back.

    The input is added to the output where their shapes agree (Sandler et al., CVPR 2018).

    Args:
        in_channels: channels of the input ``[N, in_channels, H, W]``.
        out_channels: channels of the output.
        expansion: factor between input and inner channels.
        kernel_size: side of the depthwise kernel, odd.
        stride: step of the depthwise kernel.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, expansion: int, kernel_size: int, stride: int = 1
    ) -> None:
        super().__init__()
        inner = in_channels * expansion
        self.expand = conv_batch_norm(in_channels, inner, 1)
        self.depthwise = conv_batch_norm(inner, inner, kernel_size, stride=stride, groups=inner)
        self.project = conv_batch_norm(inner, out_channels, 1, activation=False)
        self.has_shortcut = stride == 1 and in_channels == out_channels

    def forward(self, input: Tensor) -> Tensor:
        output = self.project(self.depthwise(self.expand(input)))
        return input + output if self.has_shortcut else output


def identity(in_channels: int, out_channels: int, *, stride: int = 1) -> nn.Module:
    """Passes the input on; where stride or channels change, a 1x1 convolution and batch norm stand in."""
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    return conv_batch_norm(in_channels, out_channels, 1, stride=stride, activation=False)


def pooled_classifier(in_channels: int, hidden_channels: int, num_classes: int) -> nn.Sequential:
    """1x1 convolution with batch norm and ReLU, global average pool, linear layer to the class scores."""
    return nn.Sequential(
        conv_batch_norm(in_channels, hidden_channels, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(hidden_channels, num_classes),
    )
