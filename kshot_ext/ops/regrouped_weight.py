"""The weight of a convolution with more groups than the kept one has. A view of it, which torch makes anywhere."""

from __future__ import annotations

from torch import Tensor

from kshot_ext import reference


def regrouped_weight(weight: Tensor, groups: int, active_groups: int) -> Tensor:
    """The weight for another group count than that of the dictionary: each output channel reads fewer inputs.

        result[o, i] = weight[o, (j mod r) * C_in/g + i],    j = floor(o * g / C_out),  r = g / G

    so that a convolution with g groups and the result equals the one with G groups and those connections alone that
    stay inside of a group.

    Args:
        weight: `[..., C_out, C_in/G, KH, KW]`, a plain weight or a dictionary.
        groups: G, those of the weight.
        active_groups: g, a multiple of G that divides both channel counts.

    Returns:
        `[..., C_out, C_in/g, KH, KW]`.

    Gradients:
        To `weight`, any number of times.

    Raises:
        ValueError: if G or g does not divide what it must.

    Example:
        >>> import torch
        >>> regrouped_weight(torch.arange(8.0).reshape(2, 4, 1, 1), 1, 2).flatten(1)
        tensor([[0., 1.],
                [6., 7.]])

    Paper: once-for-all, arXiv 1908.09791, whose elastic group count this is.
    """
    out_channels, group_in = weight.shape[-4], weight.shape[-3]
    if groups < 1 or out_channels % groups:
        raise ValueError(f"groups must be a positive divisor of the weight's C_out = {out_channels}, got {groups}")
    in_channels = groups * group_in
    if active_groups < 1 or active_groups % groups or out_channels % active_groups or in_channels % active_groups:
        raise ValueError(
            f"active_groups must be a multiple of groups = {groups} that divides C_out = {out_channels} and "
            f"C_in = {in_channels}, got {active_groups}"
        )
    return reference.regrouped_weight(weight, groups, active_groups)
