"""K-shot forms of layers of timm and torchvision that differ a little from torch's; neither library is imported.

Kinds whose forward is torch's take the K-shot layer of torch's kind. The others run their own forward on mixed
parameters, and where our kernels do better, on these.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from kshot_ext import functional as KF
from kshot_ext.nn.code import by_samples
from kshot_ext.nn.conversions import register_conversion
from kshot_ext.nn.linear import KShotLinear
from kshot_ext.nn.mixed import KShotBySamples, KShotMixed, KShotOfLastAxis
from kshot_ext.nn.routed_conv import same_border


class KShotConv2dSame(KShotMixed):
    """timm's `Conv2dSame` with K copies: a convolution that pads as TensorFlow does; made by `kshot_ext.convert` only.

    `forward(input, code=None)` is `kshot_conv2d` of the padded input.
    """

    weight: nn.Parameter
    bias: nn.Parameter | None
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    @by_samples
    def forward(self, input: Tensor, code: Tensor | None = None) -> Tensor:
        padded = F.pad(input, same_border(input, self.kernel_size, self.stride, self.dilation))
        return KF.kshot_conv2d(
            padded, self.weight, self.resolve_code(code), self.bias, self.stride, 0, self.dilation, self.groups
        )


class KShotStandardisedConv2d(KShotBySamples):
    """timm's convolutions whose weight is standardised, with K copies; made by `kshot_ext.convert` only.

    `forward(input, code=None)` standardises the mixed weight; a code is `[K]`, or `[N, K]` for one row per sample.
    """


_FORMS: dict[type[Any], tuple[str, ...]] = {
    KShotLinear: ("timm.layers.linear.Linear",),
    KShotConv2dSame: ("timm.layers.conv2d_same.Conv2dSame",),
    KShotStandardisedConv2d: tuple(
        f"timm.layers.std_conv.{name}"
        for name in ("StdConv2d", "StdConv2dSame", "ScaledStdConv2d", "ScaledStdConv2dSame")
    ),
    KShotBySamples: (
        *(
            f"timm.layers.norm.{name}"
            for name in ("GroupNorm", "GroupNorm1", "LayerNorm2d", "LayerNorm2dFp32", "RmsNorm2d", "SimpleNorm2d")
        ),
        *(f"timm.layers.norm_act.{name}" for name in ("GroupNormAct", "GroupNorm1Act", "LayerNormAct2d")),
        "timm.layers.layer_scale.LayerScale2d",
        "torchvision.models.convnext.LayerNorm2d",
    ),
    KShotOfLastAxis: (
        *(f"timm.layers.norm.{name}" for name in ("LayerNorm", "LayerNormFp32", "RmsNorm", "SimpleNorm")),
        *(f"timm.layers.norm_act.{name}" for name in ("LayerNormAct", "LayerNormActFp32")),
        "timm.layers.layer_scale.LayerScale",
    ),
}
for _form, _kinds in _FORMS.items():
    for _kind in _kinds:
        register_conversion(_kind, _form.from_plain, _form.to_plain)
