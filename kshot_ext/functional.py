"""The public operators, gathered from `kshot_ext.ops`.

Under the transforms of `torch.func` and in forward-mode differentiation they run `kshot_ext.reference`.

Example:
    >>> import torch
    >>> import kshot_ext.functional as KF
    >>> weight, code = torch.randn(4, 8, 3, 3, 3), torch.full((4,), 0.25)
    >>> KF.kshot_conv2d(torch.randn(2, 3, 16, 16), weight, code, padding="same").shape
    torch.Size([2, 8, 16, 16])
"""

from kshot_ext.ops import channel_split, operation_counts  # noqa: F401  for what they register
from kshot_ext.ops.avg_pool2d import avg_pool2d
from kshot_ext.ops.batch_norm_act import batch_norm_act
from kshot_ext.ops.chained_conv2d import chained_conv2d
from kshot_ext.ops.chained_norm_act import chained_norm_act
from kshot_ext.ops.dtw_align import dtw_align
from kshot_ext.ops.dynamic_group_conv2d import dynamic_group_conv2d
from kshot_ext.ops.dynamic_group_weight import dynamic_group_weight
from kshot_ext.ops.effective_weight import effective_weight
from kshot_ext.ops.folded_conv2d import folded_conv2d
from kshot_ext.ops.gated_conv2d import gated_conv2d
from kshot_ext.ops.kernel_window import kernel_window
from kshot_ext.ops.kshot_conv import kshot_conv1d, kshot_conv2d, kshot_conv3d
from kshot_ext.ops.kshot_linear import kshot_linear
from kshot_ext.ops.mix_weights import mix_weights
from kshot_ext.ops.regrouped_weight import regrouped_weight
from kshot_ext.reference.chained_conv2d import ChannelNorm, RawOutput
from kshot_ext.reference.dtw_align import Alignment

__all__ = [
    "Alignment",
    "ChannelNorm",
    "RawOutput",
    "avg_pool2d",
    "batch_norm_act",
    "chained_conv2d",
    "chained_norm_act",
    "dtw_align",
    "dynamic_group_conv2d",
    "dynamic_group_weight",
    "effective_weight",
    "folded_conv2d",
    "gated_conv2d",
    "kernel_window",
    "kshot_conv1d",
    "kshot_conv2d",
    "kshot_conv3d",
    "kshot_linear",
    "mix_weights",
    "regrouped_weight",
]
