"""Width arithmetic: which leading channels of a layer are in use.

Every operator takes its widths from here, so that the reference, the kernels and the shape inference
cannot disagree about them.
"""

from __future__ import annotations

from typing import NamedTuple


class ActiveWidths(NamedTuple):
    """The part of a convolution that a call uses. All counts are of leading channels (or groups)."""

    in_channels: int  # channels of the input that are read
    out_channels: int  # channels of the output
    groups: int  # groups in use
    weight_in_channels: int  # entries of the weight's C_in/groups dimension in use


def active_widths(
    input_channels: int, weight_channels: tuple[int, int], groups: int, out_channels: int | None
) -> ActiveWidths:
    """Work out the active widths of a convolution.

    With one group, the input's channel count is the input width and `out_channels` the output width, freely
    chosen. With several groups, widths are whole groups: the input's channel count fixes how many groups are
    there, and `out_channels` may ask for fewer of them. The result always equals the leading channels of
    what the whole layer would give for an input padded with zeros.

    Args:
        input_channels: channel count of the input.
        weight_channels: `(C_out, C_in/groups)` of the weight.
        groups: number of groups of the whole layer.
        out_channels: output width asked for; None means all that the input allows.

    Raises:
        ValueError: if a width is out of range or splits a group.

    Example:
        >>> active_widths(16, (64, 32), groups=1, out_channels=24)
        ActiveWidths(in_channels=16, out_channels=24, groups=1, weight_in_channels=16)
        >>> active_widths(16, (64, 1), groups=64, out_channels=None)
        ActiveWidths(in_channels=16, out_channels=16, groups=16, weight_in_channels=1)
    """
    weight_out, weight_in = weight_channels
    if groups < 1 or weight_out % groups != 0:
        raise ValueError(f"groups must be a positive divisor of the weight's C_out = {weight_out}, got {groups}")
    total_in = weight_in * groups
    if not 1 <= input_channels <= total_in:
        raise ValueError(
            f"input has {input_channels} channels, expected 1 to {total_in} (C_in of the weight, {groups} groups)"
        )
    if out_channels is not None and not 1 <= out_channels <= weight_out:
        raise ValueError(f"out_channels must be 1 to {weight_out} (C_out of the weight), got {out_channels}")
    if groups == 1:
        return ActiveWidths(input_channels, out_channels or weight_out, 1, input_channels)

    group_out = weight_out // groups
    if input_channels % weight_in != 0:
        raise ValueError(
            f"input has {input_channels} channels, expected a multiple of {weight_in}: "
            f"with {groups} groups a width is a whole number of groups of {weight_in} input channels"
        )
    active_groups = input_channels // weight_in
    if out_channels is not None:
        if out_channels % group_out != 0:
            raise ValueError(
                f"out_channels must be a multiple of {group_out}, got {out_channels}: "
                f"with {groups} groups a width is a whole number of groups of {group_out} output channels"
            )
        if out_channels > active_groups * group_out:
            raise ValueError(
                f"out_channels must be at most {active_groups * group_out}, got {out_channels}: "
                f"an input of {input_channels} channels feeds {active_groups} of the {groups} groups"
            )
        active_groups = out_channels // group_out
    return ActiveWidths(active_groups * weight_in, active_groups * group_out, active_groups, weight_in)
