"""Width arithmetic of convolutions."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from repeatable import integers
from torch.nn import functional as F

from kshot_ext.widths import ActiveWidths, active_widths


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((32, (64, 32), 1, None), ActiveWidths(32, 64, 1, 32)),
        ((7, (64, 32), 1, None), ActiveWidths(7, 64, 1, 7)),
        ((7, (64, 32), 1, 5), ActiveWidths(7, 5, 1, 7)),
        ((6, (9, 2), 3, None), ActiveWidths(6, 9, 3, 2)),
        ((4, (9, 2), 3, None), ActiveWidths(4, 6, 2, 2)),
        ((6, (9, 2), 3, 3), ActiveWidths(2, 3, 1, 2)),
        ((64, (64, 1), 64, None), ActiveWidths(64, 64, 64, 1)),
        ((5, (64, 1), 64, None), ActiveWidths(5, 5, 5, 1)),
        ((5, (128, 1), 64, None), ActiveWidths(5, 10, 5, 1)),
        ((1, (1, 1), 1, 1), ActiveWidths(1, 1, 1, 1)),
    ],
)
def test_active_widths(arguments: tuple, expected: ActiveWidths) -> None:
    assert active_widths(*arguments) == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((4, (8, 4), 0, None), "groups must be a positive divisor of the weight's C_out = 8, got 0"),
        ((4, (8, 4), 3, None), "groups must be a positive divisor of the weight's C_out = 8, got 3"),
        ((5, (8, 4), 1, None), r"input has 5 channels, expected 1 to 4 \(C_in of the weight, 1 groups\)"),
        ((0, (8, 4), 1, None), "input has 0 channels, expected 1 to 4"),
        ((9, (8, 4), 2, None), r"input has 9 channels, expected 1 to 8 \(C_in of the weight, 2 groups\)"),
        ((4, (8, 4), 1, 9), r"out_channels must be 1 to 8 \(C_out of the weight\), got 9"),
        ((4, (8, 4), 1, 0), "out_channels must be 1 to 8.*got 0"),
        ((3, (8, 4), 2, None), "input has 3 channels, expected a multiple of 4: with 2 groups"),
        ((8, (8, 4), 2, 3), "out_channels must be a multiple of 4, got 3: with 2 groups"),
        ((4, (8, 4), 2, 8), "out_channels must be at most 4, got 8: an input of 4 channels feeds 1 of the 2 groups"),
    ],
)
def test_rejects(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        active_widths(*arguments)


@given(integers(1, 4), integers(1, 3), integers(1, 3), st.data())
def test_equals_the_whole_layer_on_an_input_padded_with_zeros(
    groups: int, group_in: int, group_out: int, data: st.DataObject
) -> None:
    input_groups = data.draw(integers(1, groups))
    output_groups = data.draw(integers(1, input_groups))
    total_in, total_out = groups * group_in, groups * group_out
    input_channels = input_groups * group_in
    widths = active_widths(input_channels, (total_out, group_in), groups, output_groups * group_out)
    weight = torch.arange(1.0, total_out * group_in + 1).reshape(total_out, group_in, 1)
    whole_input = torch.zeros(1, total_in, 1)
    whole_input[:, :input_channels] = torch.arange(1.0, input_channels + 1)[:, None]
    narrow = F.conv1d(
        whole_input[:, : widths.in_channels],
        weight[: widths.out_channels, : widths.weight_in_channels],
        groups=widths.groups,
    )
    whole = F.conv1d(whole_input, weight, groups=groups)
    assert torch.equal(narrow, whole[:, : widths.out_channels])
