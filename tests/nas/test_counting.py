import pytest
import torch
from torch import nn

from kshot_ext.nas.counting import Cost, measure


@pytest.mark.parametrize(
    ("build", "input_shape", "cost", "output_shape"),
    [
        (lambda: nn.Conv2d(3, 8, 3, padding=1), (3, 5, 7), Cost(8 * 27 * 35, 8 * 27 + 8), (8, 5, 7)),
        (lambda: nn.Conv2d(6, 6, 3, stride=2, groups=6, bias=False), (6, 7, 7), Cost(54 * 9, 54), (6, 3, 3)),
        (lambda: nn.Linear(5, 4), (5,), Cost(20, 24), (4,)),
        (lambda: nn.Sequential(nn.BatchNorm2d(4), nn.ReLU()), (4, 2, 2), Cost(0, 8), (4, 2, 2)),
    ],
)
def test_counts_by_geometry(build, input_shape, cost, output_shape):
    assert measure(build, input_shape) == (cost, output_shape)


def test_refuses_layers_without_a_rule():
    with pytest.raises(TypeError, match="LSTM"):
        measure(lambda: nn.Sequential(nn.LSTM(4, 4)), (3, 4))


def test_draws_no_random_number():
    before = torch.get_rng_state()
    measure(lambda: nn.Linear(5, 4), (5,))
    assert torch.equal(torch.get_rng_state(), before)
