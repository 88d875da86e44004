"""The operators in plain PyTorch: the definition of correct.

Each function has the signature of its twin in `kshot_ext.functional`. The code follows the equations, not
the hardware; gradients, second derivatives included, are autograd's own.
"""

from kshot_ext.reference.adamw_update import adamw_update
from kshot_ext.reference.avg_pool2d import avg_pool2d
from kshot_ext.reference.batch_norm_act import batch_norm_act
from kshot_ext.reference.chained_conv2d import ChannelNorm, RawOutput, chained_conv2d, chained_norm_act, folded_conv2d
from kshot_ext.reference.dtw_align import Alignment, dtw_align
from kshot_ext.reference.dynamic_group_conv2d import dynamic_group_conv2d, dynamic_group_weight
from kshot_ext.reference.effective_weight import effective_weight
from kshot_ext.reference.gated_conv2d import gated_conv2d
from kshot_ext.reference.kernel_window import kernel_window
from kshot_ext.reference.kshot_conv import kshot_conv1d, kshot_conv2d, kshot_conv3d
from kshot_ext.reference.kshot_linear import kshot_linear
from kshot_ext.reference.mix_weights import mix_weights
from kshot_ext.reference.regrouped_weight import regrouped_weight
from kshot_ext.reference.sgd_update import sgd_update

__all__ = [
    "Alignment",
    "ChannelNorm",
    "RawOutput",
    "adamw_update",
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
    "sgd_update",
]
