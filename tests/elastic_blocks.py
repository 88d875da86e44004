"""A small network in the manner of once-for-all's MobileNetV3, of our sliced layers, and the same sliced by hand.

Blocks have elastic widths and kernel sizes, stages elastic depths. Names of parts are those of the original.
"""

from __future__ import annotations

import random
from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kshot_ext.nn import sliced

KERNELS, RATIOS, DEPTHS = [3, 5, 7], [3, 4, 6], [1, 2]


def rounded(channels: float) -> int:
    """The nearest multiple of eight."""
    return max(8, int(channels + 4) // 8 * 8)


def sequence(**parts: nn.Module) -> nn.Sequential:
    return nn.Sequential(OrderedDict(parts))


class ElasticBlock(nn.Module):
    """Expand, depthwise, squeeze-excite, project."""

    def __init__(
        self, inputs: int, outputs: int, stride: int, act: type[nn.Module], squeeze: bool, shots: int | None
    ) -> None:
        super().__init__()
        inner = rounded(inputs * max(RATIOS))
        named = {"num_shots": shots}
        self.inverted_bottleneck = sequence(
            conv=sliced.DynamicConv2d(inputs, inner, **named), bn=sliced.DynamicBatchNorm2d(inner, **named), act=act()
        )
        self.depth_conv = sequence(
            conv=sliced.DynamicSeparableConv2d(inner, KERNELS, stride, **named),
            bn=sliced.DynamicBatchNorm2d(inner, **named),
            act=act(),
        )
        if squeeze:
            self.depth_conv.add_module("se", sliced.DynamicSE(inner, **named))
        self.point_linear = sequence(
            conv=sliced.DynamicConv2d(inner, outputs, **named), bn=sliced.DynamicBatchNorm2d(outputs, **named)
        )
        self.stride, self.shortcut = stride, stride == 1 and inputs == outputs
        self.active_kernel_size, self.active_expand_ratio = max(KERNELS), max(RATIOS)

    def forward(self, x: Tensor) -> Tensor:
        self.inverted_bottleneck.conv.active_out_channel = rounded(x.shape[1] * self.active_expand_ratio)
        self.depth_conv.conv.active_kernel_size = self.active_kernel_size
        y = self.point_linear(self.depth_conv(self.inverted_bottleneck(x)))
        return x + y if self.shortcut else y


class ElasticNet(nn.Module):
    """A stem, two stages of blocks, a sliced classifier."""

    def __init__(self, shots: int | None = None) -> None:
        super().__init__()
        self.first_conv = sequence(conv=nn.Conv2d(3, 8, 3, 2, 1, bias=False), bn=nn.BatchNorm2d(8), act=nn.Hardswish())
        blocks = [
            ElasticBlock(8, 16, 2, nn.ReLU, False, shots), ElasticBlock(16, 16, 1, nn.ReLU, True, shots),
            ElasticBlock(16, 24, 1, nn.Hardswish, True, shots), ElasticBlock(24, 24, 1, nn.Hardswish, False, shots),
        ]  # fmt: skip
        self.blocks = nn.ModuleList(blocks)
        self.stages, self.depths = [[0, 1], [2, 3]], [2, 2]
        self.classifier = sliced.DynamicLinear(24, 10, num_shots=shots)

    def active(self) -> list[int]:
        """The numbers of the blocks in use."""
        return [i for stage, depth in zip(self.stages, self.depths) for i in stage[:depth]]

    def forward(self, x: Tensor) -> Tensor:
        x = self.first_conv(x)
        for index in self.active():
            x = self.blocks[index](x)
        return self.classifier(x.mean((2, 3)))

    def choose(self, seed: int) -> None:
        """A random sub-network."""
        draw = random.Random(seed)
        for block in self.blocks:
            block.active_kernel_size, block.active_expand_ratio = draw.choice(KERNELS), draw.choice(RATIOS)
        self.depths = [draw.choice(DEPTHS) for _ in self.stages]
        self.classifier.active_out_features = draw.choice([7, 10])


def disturbed(net: nn.Module) -> nn.Module:
    """A network in float64 whose norms and matrices are no identities."""
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        for name, buffer in net.named_buffers():
            if name.endswith("running_var"):
                buffer.uniform_(0.5, 1.5)
            elif name.endswith("running_mean"):
                buffer.normal_()
    return net.double()


class ByHand:
    """The active sub-network of an `ElasticNet` by slices of its tensors, from a dictionary of these.

    Args:
        net: says what is active.
        tensors: parameters and buffers by name; buffers are moved, gradients reach parameters.
    """

    def __init__(self, net: ElasticNet, tensors: dict[str, Tensor]) -> None:
        self.net, self.tensors = net, tensors

    def __call__(self, x: Tensor) -> Tensor:
        x = F.conv2d(x, self.tensors["first_conv.conv.weight"], stride=2, padding=1)
        x = F.hardswish(self.norm("first_conv", x, "bn"))
        for index in self.net.active():
            x = self.block(f"blocks.{index}", self.net.blocks[index], x)
        out = self.net.classifier.active_out_features
        weight, bias = self.tensors["classifier.linear.weight"], self.tensors["classifier.linear.bias"]
        return x.mean((2, 3)) @ weight[:out, : x.shape[1]].T + bias[:out]

    def norm(self, name: str, x: Tensor, path: str = "bn.bn") -> Tensor:
        of = {each: self.tensors[f"{name}.{path}.{each}"] for each in ("running_mean", "running_var", "weight", "bias")}
        c = x.shape[1]
        return F.batch_norm(
            x, of["running_mean"][:c], of["running_var"][:c], of["weight"][:c], of["bias"][:c], self.net.training
        )

    def block(self, name: str, block: ElasticBlock, x: Tensor) -> Tensor:
        act = {nn.ReLU: F.relu, nn.Hardswish: F.hardswish}[type(block.depth_conv.act)]
        inner = rounded(x.shape[1] * block.active_expand_ratio)
        weight = self.tensors[f"{name}.inverted_bottleneck.conv.conv.weight"]
        y = F.conv2d(x, weight[:inner, : x.shape[1]])
        y = act(self.norm(f"{name}.inverted_bottleneck", y))
        y = F.conv2d(y, self.depthwise(name, block, inner), stride=block.stride, padding=block.active_kernel_size // 2,
                     groups=inner)  # fmt: skip
        y = act(self.norm(f"{name}.depth_conv", y))
        if hasattr(block.depth_conv, "se"):
            y = self.squeeze_excite(f"{name}.depth_conv.se.fc", y)
        weight = self.tensors[f"{name}.point_linear.conv.conv.weight"]
        y = self.norm(f"{name}.point_linear", F.conv2d(y, weight[:, :inner]))
        return x + y if block.shortcut else y

    def depthwise(self, name: str, block: ElasticBlock, inner: int) -> Tensor:
        weight = self.tensors[f"{name}.depth_conv.conv.conv.weight"][:inner, 0]
        for large, small in ((7, 5), (5, 3)):
            if block.active_kernel_size <= small:
                matrix = self.tensors[f"{name}.depth_conv.conv.{large}to{small}_matrix"]
                weight = (weight[:, 1:-1, 1:-1].reshape(inner, -1) @ matrix.T).reshape(inner, small, small)
        return weight[:, None]

    def squeeze_excite(self, name: str, y: Tensor) -> Tensor:
        channels = y.shape[1]
        middle = rounded(channels // 4)
        of = {f"{part}.{each}": self.tensors[f"{name}.{part}.{each}"]
              for part in ("reduce", "expand") for each in ("weight", "bias")}  # fmt: skip
        z = y.mean((2, 3)) @ of["reduce.weight"][:middle, :channels, 0, 0].T + of["reduce.bias"][:middle]
        z = z.relu() @ of["expand.weight"][:channels, :middle, 0, 0].T + of["expand.bias"][:channels]
        return y * F.hardsigmoid(z)[..., None, None]
