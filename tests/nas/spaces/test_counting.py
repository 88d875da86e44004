import pytest
import torch
from torch import nn

from kshot_ext.nas.spaces.counting import Cost, cost_of, count_positions
from kshot_ext.nas.spaces.outline import outlines


def measure(build, input_shape):
    with outlines():
        network = build()
    positions = count_positions(network, input_shape)
    return cost_of(network, {name: positions[layer] for name, layer in network.named_modules()})


@pytest.mark.parametrize(
    ("build", "input_shape", "cost"),
    [
        (lambda: nn.Conv2d(3, 8, 3, padding=1), (3, 5, 7), Cost(8 * 27 * 35, 8 * 27 + 8)),
        (lambda: nn.Conv2d(6, 6, 3, stride=2, groups=6, bias=False), (6, 7, 7), Cost(54 * 9, 54)),
        (lambda: nn.Linear(5, 4), (5,), Cost(20, 24)),
        (lambda: nn.Sequential(nn.BatchNorm2d(4), nn.ReLU()), (4, 2, 2), Cost(0, 8)),
    ],
)
def test_counts_by_geometry(build, input_shape, cost):
    assert measure(build, input_shape) == cost


def test_a_layer_used_twice_works_twice():
    layer = nn.Linear(5, 5)
    assert measure(lambda: nn.Sequential(layer, nn.ReLU(), layer).to("meta"), (5,)) == Cost(50, 30)


def test_refuses_layers_without_a_rule():
    with pytest.raises(TypeError, match="LSTM"):
        cost_of(nn.Sequential(nn.LSTM(4, 4)), {})


def test_outlines_draw_no_random_number_and_leave_torch_as_it_was():
    before = torch.get_rng_state()
    with outlines():
        assert nn.Conv2d(2, 3, 1).weight.is_meta
        assert nn.BatchNorm2d(3).running_var.is_meta
    with pytest.raises(ValueError, match="groups"), outlines():
        nn.Conv2d(2, 3, 1, groups=2)
    assert torch.equal(torch.get_rng_state(), before)
    assert nn.BatchNorm2d(3).weight.eq(1).all()


def test_layers_on_a_device_get_their_values_while_outlines_are_made():
    with outlines():
        layer = nn.BatchNorm2d(3, device="cpu")
    assert layer.weight.eq(1).all()
