"""Drop-in modules: the constructors of `torch.nn` plus `num_shots`, with K copies of every weight.

Example:
    >>> import torch
    >>> from kshot_ext.nn import KShotConv2d
    >>> layer = KShotConv2d(3, 8, kernel_size=3, padding=1, num_shots=4)
    >>> layer(torch.randn(2, 3, 16, 16), torch.full((4,), 0.25)).shape
    torch.Size([2, 8, 16, 16])
"""

from kshot_ext.nn.batch_norm import KShotBatchNorm2d
from kshot_ext.nn.code import KShotModule, set_code
from kshot_ext.nn.conv import KShotConv1d, KShotConv2d, KShotConv3d
from kshot_ext.nn.conv_norm_act import KShotChain, KShotConvNormAct
from kshot_ext.nn.dynamic_group_conv import ChannelPermutation, DynamicGroupConv2d, export_dynamic_groups
from kshot_ext.nn.gated_conv import GatedConv2d
from kshot_ext.nn.linear import KShotLinear
from kshot_ext.nn.quantised import KShotQuantisedConv2d, KShotQuantisedLinear, QuantisedConv2d, QuantisedLinear

__all__ = [
    "ChannelPermutation",
    "DynamicGroupConv2d",
    "GatedConv2d",
    "KShotBatchNorm2d",
    "KShotChain",
    "KShotConv1d",
    "KShotConv2d",
    "KShotConv3d",
    "KShotConvNormAct",
    "KShotLinear",
    "KShotModule",
    "KShotQuantisedConv2d",
    "KShotQuantisedLinear",
    "QuantisedConv2d",
    "QuantisedLinear",
    "export_dynamic_groups",
    "set_code",
]
