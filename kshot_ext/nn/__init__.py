"""Drop-in modules: the constructors of `torch.nn` plus `num_shots`, with K copies of every weight.

Example:
    >>> import torch
    >>> from kshot_ext.nn import KShotConv2d
    >>> layer = KShotConv2d(3, 8, kernel_size=3, padding=1, num_shots=4)
    >>> layer(torch.randn(2, 3, 16, 16), torch.full((4,), 0.25)).shape
    torch.Size([2, 8, 16, 16])
"""

from kshot_ext.nn import (
    init,
    library_layers,  # noqa: F401  registers layers that have no public name
    sliced,
)
from kshot_ext.nn.batch_norm import KShotBatchNorm1d, KShotBatchNorm2d, KShotBatchNorm3d
from kshot_ext.nn.code import KShotModule, set_code
from kshot_ext.nn.conv import KShotConv1d, KShotConv2d, KShotConv3d
from kshot_ext.nn.conv_norm_act import KShotChain, KShotConvNormAct
from kshot_ext.nn.conv_transpose import KShotConvTranspose1d, KShotConvTranspose2d, KShotConvTranspose3d
from kshot_ext.nn.dynamic_group_conv import ChannelPermutation, DynamicGroupConv2d, export_dynamic_groups
from kshot_ext.nn.embedding import KShotEmbedding
from kshot_ext.nn.gated_conv import GatedConv2d
from kshot_ext.nn.group_norm import KShotGroupNorm
from kshot_ext.nn.layer_norm import KShotLayerNorm
from kshot_ext.nn.linear import KShotLinear
from kshot_ext.nn.mixed import KShotMixed
from kshot_ext.nn.multihead_attention import KShotMultiheadAttention
from kshot_ext.nn.quantised import KShotQuantisedConv2d, KShotQuantisedLinear, QuantisedConv2d, QuantisedLinear
from kshot_ext.nn.routed_conv import RoutedConv2d

__all__ = [
    "ChannelPermutation",
    "DynamicGroupConv2d",
    "GatedConv2d",
    "KShotBatchNorm1d",
    "KShotBatchNorm2d",
    "KShotBatchNorm3d",
    "KShotChain",
    "KShotConv1d",
    "KShotConv2d",
    "KShotConv3d",
    "KShotConvNormAct",
    "KShotConvTranspose1d",
    "KShotConvTranspose2d",
    "KShotConvTranspose3d",
    "KShotEmbedding",
    "KShotGroupNorm",
    "KShotLayerNorm",
    "KShotLinear",
    "KShotMixed",
    "KShotModule",
    "KShotMultiheadAttention",
    "KShotQuantisedConv2d",
    "KShotQuantisedLinear",
    "QuantisedConv2d",
    "QuantisedLinear",
    "RoutedConv2d",
    "export_dynamic_groups",
    "init",
    "set_code",
    "sliced",
]
