"""The weight for more groups: its convolution is that with fewer, without the connections between groups."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from kshot_ext import functional as KF


def dense(weight: Tensor, groups: int, in_channels: int) -> Tensor:
    """A grouped weight with zeros for the connections that it has not."""
    outputs, inputs = weight.shape[:2]
    full = torch.zeros(outputs, in_channels, *weight.shape[2:], dtype=weight.dtype)
    for o in range(outputs):
        first = o * groups // outputs * inputs
        full[o, first : first + inputs] = weight[o]
    return full


@pytest.mark.parametrize(("groups", "active"), [(1, 1), (1, 2), (1, 6), (2, 2), (2, 4), (2, 12), (3, 12), (6, 12)])
def test_connections_between_groups_are_left_out(groups: int, active: int) -> None:
    in_channels, out_channels = 12, 24
    weight = torch.randn(out_channels, in_channels // groups, 3, 1, dtype=torch.float64)
    x = torch.randn(2, in_channels, 5, 4, dtype=torch.float64)
    of_output, of_input = (torch.arange(count) * active // count for count in (out_channels, in_channels))
    inside = (of_output[:, None] == of_input)[..., None, None]
    wanted = F.conv2d(x, dense(weight, groups, in_channels) * inside)
    regrouped = KF.regrouped_weight(weight, groups, active)
    assert regrouped.shape == (out_channels, in_channels // active, 3, 1)
    torch.testing.assert_close(F.conv2d(x, regrouped, groups=active), wanted, rtol=1e-12, atol=1e-12)
    several = KF.regrouped_weight(torch.stack([weight, 2 * weight]), groups, active)
    torch.testing.assert_close(several, torch.stack([regrouped, 2 * regrouped]), rtol=0, atol=0)


def test_gradients() -> None:
    weight = torch.randn(8, 4, 1, 1, dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(lambda w: KF.regrouped_weight(w, 2, 4), (weight,))


@pytest.mark.parametrize(
    ("groups", "active", "message"),
    [
        (3, 3, "groups must be a positive divisor of the weight's C_out = 8, got 3"),
        (2, 3, "multiple of groups = 2 that divides C_out = 8 and C_in = 12, got 3"),
        (2, 8, "C_in = 12, got 8"),
        (2, 1, "multiple of groups = 2.*got 1"),
    ],
)
def test_what_cannot_be_is_refused(groups: int, active: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        KF.regrouped_weight(torch.zeros(8, 6, 1, 1), groups, active)
