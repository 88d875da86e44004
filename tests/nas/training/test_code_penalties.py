import math

import pytest
import torch

from kshot_ext.nas.networks.simplex_net import SimplexNet
from kshot_ext.nas.training.code_penalties import imbalance, width_mismatch


def test_imbalance_looks_at_the_mean_code_only():
    specialised, equal = torch.eye(4), torch.full((4, 4), 0.25)
    assert imbalance(specialised) == pytest.approx(0, abs=1e-6)
    assert imbalance(equal) == pytest.approx(0, abs=1e-6)
    assert imbalance(torch.eye(4)[:1]) == pytest.approx(math.log(4))
    assert imbalance(torch.tensor([[0.7, 0.3]])) > imbalance(torch.tensor([[0.6, 0.4]])) > 0


def test_imbalance_of_codes_per_layer_is_that_of_each_layer():
    """Layers have copies of their own: that one layer uses the first and another the second helps neither."""
    codes = torch.eye(2).expand(5, 2, 2)
    assert imbalance(codes) == pytest.approx(math.log(2))
    first, second = torch.rand(5, 3), torch.rand(5, 3)
    both = torch.stack([first, second], dim=1)
    assert imbalance(both) == pytest.approx((imbalance(first) + imbalance(second)).item() / 2)


def test_descending_the_imbalance_evens_the_shares(tiny_space, seeded):
    simplex_net = SimplexNet(tiny_space, 3, seeded(0))
    with torch.no_grad():
        simplex_net.output.bias[0] = 2.0
    paths = [tiny_space.sample(seeded(seed)) for seed in range(20)]
    optimizer = torch.optim.Adam(simplex_net.parameters(), lr=0.01)
    before = imbalance(simplex_net(paths)).item()
    for _ in range(40):
        imbalance(simplex_net(paths)).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert imbalance(simplex_net(paths)) < 0.1 * before


def test_width_mismatch_is_the_mean_of_squares():
    codes, others = torch.rand(4, 3).softmax(1), torch.rand(4, 3).softmax(1)
    distances = torch.rand(4)
    expected = sum((((a - b) ** 2).sum() - d) ** 2 for a, b, d in zip(codes, others, distances)) / 4
    torch.testing.assert_close(width_mismatch(codes, others, distances), expected)
    per_layer = [torch.stack([side, side.flip(1)], dim=1) for side in (codes, others)]
    torch.testing.assert_close(width_mismatch(*per_layer, distances), expected)
