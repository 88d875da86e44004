"""The space of numbers of groups."""

import pytest
import torch

from kshot_ext.nas.spaces import create_space
from kshot_ext.nas.spaces.architecture import Architecture


@pytest.mark.parametrize(("channels", "most"), [(32, 16), (8, 8), (6, 2), (48, 16)])
def test_layers_offer_as_many_groups_as_divide_their_channels(channels, most, seeded):
    space = create_space("groupable", image_shape=(3, 8, 8), num_classes=3, channels=channels)
    names = space.operations(0)
    assert names == tuple(f"groups_{2**power}" for power in range(most.bit_length()))
    network = space.build(Architecture((len(names) - 1,) * space.num_layers), seeded(0))
    groups = [layer.groups for layer in network.modules() if isinstance(layer, torch.nn.Conv2d)]
    assert groups == [1, *[1, most, 1] * space.num_layers, 1]
    assert network(torch.zeros(2, 3, 8, 8)).shape == (2, 3)


def test_twice_the_groups_take_half_of_the_inner_products():
    space = create_space("groupable", image_shape=(3, 32, 32), num_classes=10)
    dense, *others = (space.layer_cost(1, choice).macs for choice in range(5))
    inner = 32 * 32 * 9 * 32 * 32
    assert [dense - other for other in others] == [inner - inner // 2**power for power in range(1, 5)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": 7}, "channels: expected an even number, as groups are of equal size, got 7"),
        ({"channels": 0}, "channels"),
        ({"widths": (0.5, 1.0)}, "widths: space groupable has none"),
    ],
)
def test_rejects(options, message):
    with pytest.raises(ValueError, match=message):
        create_space("groupable", image_shape=(3, 8, 8), num_classes=3, **options)
