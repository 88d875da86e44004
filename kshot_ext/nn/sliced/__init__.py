"""Layers of which each call uses a part: those of weight-sharing supernets with elastic widths, kernels and groups.

Names, arguments, parameters and meaning are those of once-for-all (arXiv 1908.09791) and slimmable networks
(arXiv 1812.08928), so that their networks and checkpoints work with these.

Example:
    >>> import torch
    >>> from kshot_ext.nn import sliced
    >>> expand, depthwise = sliced.DynamicConv2d(16, 64), sliced.DynamicSeparableConv2d(64, [3, 5])
    >>> depthwise(expand(torch.randn(1, 16, 8, 8), out_channel=48), kernel_size=3).shape
    torch.Size([1, 48, 8, 8])
"""

from kshot_ext.nn.sliced.adoption import AdoptionReport, adopt
from kshot_ext.nn.sliced.batch_norm import DynamicBatchNorm2d
from kshot_ext.nn.sliced.channel_sorting import sort_channels
from kshot_ext.nn.sliced.conv import DynamicConv2d
from kshot_ext.nn.sliced.group_conv import DynamicGroupConv2d
from kshot_ext.nn.sliced.group_norm import DynamicGroupNorm
from kshot_ext.nn.sliced.layer_norm import DynamicLayerNorm
from kshot_ext.nn.sliced.linear import DynamicLinear
from kshot_ext.nn.sliced.separable_conv import DynamicSeparableConv2d
from kshot_ext.nn.sliced.squeeze_excite import DynamicSE
from kshot_ext.nn.sliced.switchable import SwitchableBatchNorm2d

__all__ = [
    "AdoptionReport",
    "DynamicBatchNorm2d",
    "DynamicConv2d",
    "DynamicGroupConv2d",
    "DynamicGroupNorm",
    "DynamicLayerNorm",
    "DynamicLinear",
    "DynamicSE",
    "DynamicSeparableConv2d",
    "SwitchableBatchNorm2d",
    "adopt",
    "sort_channels",
]
