"""The weight of a convolution with more groups than the one that is kept."""

from __future__ import annotations

from torch import Tensor


def regrouped_weight(
    weight: Tensor,
    groups: int,
    active_groups: int,
) -> Tensor:
    """The weight for more groups than the dictionary's: each output channel reads fewer inputs.

        result[o, i] = weight[o, (j mod r) * C_in/g + i],    j = floor(o * g / C_out),  r = g / G

    Group j of the result reads the input channels of its own.

    Args:
        weight: `[..., C_out, C_in/G, KH, KW]`.
        groups: G, those of the weight.
        active_groups: g, those of the result.

    Returns:
        `[..., C_out, C_in/g, KH, KW]`.

    Example:
        >>> import torch
        >>> regrouped_weight(torch.arange(8.0).reshape(2, 4, 1, 1), 1, 2).flatten(1)
        tensor([[0., 1.],
                [6., 7.]])
    """
    ratio = active_groups // groups
    blocks = weight.unflatten(-4, (groups, ratio, -1)).unflatten(-3, (ratio, -1))  # [..., G, r, o, r, i, KH, KW]
    own = blocks.diagonal(dim1=-6, dim2=-4).movedim(-1, -5)  # [..., G, r, o, i, KH, KW]
    return own.flatten(-6, -4)
