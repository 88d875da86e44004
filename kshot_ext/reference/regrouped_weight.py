"""The weight of a convolution with more groups than the one that is kept: each output channel reads fewer inputs.

    regrouped[o, i] = weight[o, (j mod r) * C_in/g + i],    j = floor(o * g / C_out),  r = g / G

with G groups in the weight and g in the result. Group j of the result reads the input channels of its own.
"""

from __future__ import annotations

from torch import Tensor


def regrouped_weight(
    weight: Tensor,  # [..., C_out, C_in/G, KH, KW]
    groups: int,  # G
    active_groups: int,  # g
) -> Tensor:  # [..., C_out, C_in/g, KH, KW]
    ratio = active_groups // groups
    blocks = weight.unflatten(-4, (groups, ratio, -1)).unflatten(-3, (ratio, -1))  # [..., G, r, o, r, i, KH, KW]
    own = blocks.diagonal(dim1=-6, dim2=-4).movedim(-1, -5)  # [..., G, r, o, i, KH, KW]
    return own.flatten(-6, -4)
