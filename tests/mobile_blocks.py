"""Blocks of torchvision and timm as their authors write them, restated, for tests that need neither library."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Conv2dNormActivation(nn.Sequential):
    """torchvision's."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> None:
        conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
        super().__init__(conv, nn.BatchNorm2d(outputs), nn.ReLU6(inplace=True))
        self.out_channels = outputs


class VisionInvertedResidual(nn.Module):
    """torchvision's `InvertedResidual` of MobileNetV2."""

    def __init__(self, inputs: int, outputs: int, stride: int, ratio: int) -> None:
        super().__init__()
        self.use_res_connect = stride == 1 and inputs == outputs
        hidden = inputs * ratio
        layers = [Conv2dNormActivation(inputs, hidden, 1)] if ratio != 1 else []
        layers += [
            Conv2dNormActivation(hidden, hidden, stride=stride, groups=hidden),
            nn.Conv2d(hidden, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        ]
        self.conv = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        if self.use_res_connect:
            return x + self.conv(x)
        else:
            return self.conv(x)


class VisionNet(nn.Module):
    """A small MobileNetV2, with the methods that torchvision's has."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            Conv2dNormActivation(3, 8, stride=2),
            VisionInvertedResidual(8, 6, 1, 1),
            VisionInvertedResidual(6, 6, 1, 4),
            VisionInvertedResidual(6, 10, 2, 4),
            Conv2dNormActivation(10, 20, 1),
        )
        self.classifier = nn.Sequential(nn.Dropout(p=0.0), nn.Linear(20, 5))

    def _forward_impl(self, x: Tensor) -> Tensor:
        x = self.features(x)
        x = nn.functional.adaptive_avg_pool2d(x, (1, 1))
        x = torch.flatten(x, 1)
        return self.classifier(x)

    def forward(self, x: Tensor) -> Tensor:
        return self._forward_impl(x)


class BatchNormAct2d(nn.BatchNorm2d):
    """timm's."""

    def __init__(self, channels: int, apply_act: bool = True, act: Callable[..., nn.Module] = nn.SiLU) -> None:
        super().__init__(channels)
        self.drop = nn.Identity()
        self.act = act(inplace=True) if apply_act else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.drop(super().forward(x)))


BatchNormAct2d.__module__ = "timm.layers.norm_act"  # it is known by its name


class ConvNormAct(nn.Module):
    """timm's."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, groups: int = 1, apply_act: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups, bias=False)
        self.bn = BatchNormAct2d(outputs, apply_act)
        self.aa = None

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        x = self.bn(x)
        aa = getattr(self, "aa", None)
        if aa is not None:
            x = self.aa(x)
        return x


class SqueezeExcite(nn.Module):
    """timm's."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv_reduce = nn.Conv2d(channels, 4, 1)
        self.act1 = nn.SiLU(inplace=True)
        self.conv_expand = nn.Conv2d(4, channels, 1)
        self.gate = nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        x_se = x.mean((2, 3), keepdim=True)
        x_se = self.conv_expand(self.act1(self.conv_reduce(x_se)))
        return x * self.gate(x_se)


class TimmInvertedResidual(nn.Module):
    """timm's `InvertedResidual`; with `ratio` 1 the order of its `DepthwiseSeparableConv`."""

    def __init__(self, inputs: int, outputs: int, ratio: int) -> None:
        super().__init__()
        hidden = inputs * ratio
        self.has_skip = inputs == outputs
        self.conv_s2d = None
        self.conv_pw = nn.Conv2d(inputs, hidden, 1, bias=False)
        self.bn1 = BatchNormAct2d(hidden)
        self.conv_dw = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden, bias=False)
        self.bn2 = BatchNormAct2d(hidden)
        self.aa = nn.Identity()
        self.se = SqueezeExcite(hidden)
        self.conv_pwl = nn.Conv2d(hidden, outputs, 1, bias=False)
        self.bn3 = BatchNormAct2d(outputs, apply_act=False)
        self.drop_path = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x
        if self.conv_s2d is not None:
            x = self.conv_s2d(x)
        x = self.conv_pw(x)
        x = self.bn1(x)
        x = self.conv_dw(x)
        x = self.bn2(x)
        x = self.aa(x)
        x = self.se(x)
        x = self.conv_pwl(x)
        x = self.bn3(x)
        if self.has_skip:
            x = self.drop_path(x) + shortcut
        return x


class UniversalInvertedResidual(nn.Module):
    """timm's, of MobileNetV4."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.dw_start = ConvNormAct(channels, channels, 5, channels, apply_act=False)
        self.pw_exp = ConvNormAct(channels, 3 * channels)
        self.dw_mid = ConvNormAct(3 * channels, 3 * channels, 3, 3 * channels)
        self.se = nn.Identity()
        self.pw_proj = ConvNormAct(3 * channels, channels, apply_act=False)
        self.layer_scale = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x
        x = self.dw_start(x)
        x = self.pw_exp(x)
        x = self.dw_mid(x)
        x = self.se(x)
        x = self.pw_proj(x)
        x = self.layer_scale(x)
        return x + shortcut


class TimmNet(nn.Module):
    """A small EfficientNet, with the methods that timm's has."""

    def __init__(self) -> None:
        super().__init__()
        self.grad_checkpointing = False
        self.drop_rate = 0.0
        self.conv_stem = nn.Conv2d(3, 8, 3, 2, 1, bias=False)
        self.bn1 = BatchNormAct2d(8)
        self.blocks = nn.Sequential(
            nn.Sequential(TimmInvertedResidual(8, 8, 1)),
            nn.Sequential(TimmInvertedResidual(8, 6, 3), UniversalInvertedResidual(6)),
        )
        self.conv_head = nn.Conv2d(6, 20, 1, bias=False)
        self.bn2 = BatchNormAct2d(20)
        self.global_pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(20, 5)

    def forward_features(self, x: Tensor) -> Tensor:
        x = self.conv_stem(x)
        x = self.bn1(x)
        if self.grad_checkpointing and not torch.jit.is_scripting():
            x = torch.utils.checkpoint.checkpoint(self.blocks, x, use_reentrant=False)
        else:
            x = self.blocks(x)
        x = self.conv_head(x)
        return self.bn2(x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        x = self.global_pool(x).flatten(1)
        if self.drop_rate > 0.0:
            x = F.dropout(x, p=self.drop_rate, training=self.training)
        return x if pre_logits else self.classifier(x)

    def forward(self, x: Tensor) -> Tensor:
        x = self.forward_features(x)
        return self.forward_head(x)


class Bottleneck(nn.Module):
    """torchvision's, of ResNet-50: one activation used three times, a shortcut with layers of its own."""

    def __init__(self, inputs: int, inner: int, outputs: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, inner, 1, bias=False), nn.BatchNorm2d(inner)
        self.conv2, self.bn2 = nn.Conv2d(inner, inner, 3, padding=1, bias=False), nn.BatchNorm2d(inner)
        self.conv3, self.bn3 = nn.Conv2d(inner, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        identity = x

        out = self.conv1(x)
        out = self.bn1(out)
        out = self.relu(out)

        out = self.conv2(out)
        out = self.bn2(out)
        out = self.relu(out)

        out = self.conv3(out)
        out = self.bn3(out)

        if self.downsample is not None:
            identity = self.downsample(x)

        out += identity
        out = self.relu(out)

        return out


def residual_net() -> nn.Sequential:
    return nn.Sequential(Bottleneck(3, 8, 12), Bottleneck(12, 8, 12), nn.AdaptiveAvgPool2d(2))
