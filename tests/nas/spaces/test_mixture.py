"""Weighted sums of operations."""

import pytest
import torch
from torch import nn

from kshot_ext.nas.spaces.mixture import Mixture


class Power(nn.Module):
    def __init__(self, exponent):
        super().__init__()
        self.exponent = exponent

    def forward(self, input):
        return input**self.exponent


def test_sums_and_gradients_by_hand():
    two, three = torch.tensor(2.0, requires_grad=True), torch.tensor(3.0, requires_grad=True)
    input = torch.tensor([1.0, 4.0], requires_grad=True)
    output = Mixture([Power(2), Power(1)], [two, three])(input)
    assert output.tolist() == [2 + 3, 2 * 16 + 3 * 4]
    output.sum().backward()
    assert (two.grad, three.grad) == (1 + 16, 1 + 4)
    assert input.grad.tolist() == [2 * 2 * 1 + 3, 2 * 2 * 4 + 3]
    assert Mixture([Power(2), Power(1)])(input).tolist() == [2, 20]


@pytest.mark.parametrize(("count", "weights"), [(0, None), (2, [torch.tensor(1.0)])])
def test_refuses_other_than_one_weight_for_each(count, weights):
    with pytest.raises(ValueError, match="weights: expected one for each of at least one operation"):
        Mixture([nn.Identity()] * count, weights)
