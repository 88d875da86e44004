"""WeightNet: each image's kernel is made of its mean, by a grouped fully connected layer.

    a(x) = sigmoid(W1 W0 mean(x))                                      [N, C_out, G, M/G]
    own[n, o, i] = sum_m a[n, o, g(i), m] * weight[m, o, i]            i: of C_in/groups; g(i): which G-th of them
    y[n] = conv2d(x[n], own[n])

Ma et al., "WeightNet: Revisiting the Design Space of Weight Networks", ECCV 2020. The paper makes a weight for each
image and convolves the batch as groups. But a factor of an output channel may be applied after the convolution:

    y[n, o] = sum_g sum_m a[n, o, g, m] * conv2d(x[n, i in g], weight[m, o, i in g])

So no image needs a weight of its own. It is one call of `gated_conv2d` with groups * G groups, M * C_out outputs and a
gate per sample, and a sum over M: M/G times the products of one convolution, and its weight is shared by the batch.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kshot_ext import functional as KF


class WeightNetConv2d(nn.Module):
    """A convolution of `[N, C, H, W]` whose weight follows the image.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, groups: as in `torch.nn.Conv2d`; the kernel is square.
        factors: M, entries of the attention per output channel.
        parts: G, parts of the input channels that have entries of their own; divides M and C_in/groups.
        reduction: the attention's hidden layer has one of so many of the input's channels, 16 at least.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        groups: int = 1,
        factors: int = 2,
        parts: int = 2,
        reduction: int = 16,
    ) -> None:
        super().__init__()
        self.stride, self.padding, self.groups = stride, padding, groups
        # Of the groups' outputs: group, part, factor of the part, output channel of the group.
        self.outputs = groups, parts, factors // parts, out_channels // groups
        inputs = in_channels // (groups * parts)
        self.weight = nn.Parameter(torch.empty(factors * out_channels, inputs, kernel_size, kernel_size))
        nn.init.kaiming_normal_(self.weight, mode="fan_in", nonlinearity="linear")
        hidden = max(in_channels // reduction, 16)
        self.attention = nn.Sequential(
            nn.Linear(in_channels, hidden), nn.Linear(hidden, factors * out_channels), nn.Sigmoid()
        )

    def forward(self, input: Tensor) -> Tensor:
        gate = self.attention(input.mean(dim=(2, 3)))
        groups = self.groups * self.outputs[1]
        made = KF.gated_conv2d(input, self.weight, None, self.stride, self.padding, 1, groups, gate=gate)
        return made.unflatten(1, self.outputs).sum(dim=(2, 3)).flatten(1, 2)
