"""A space of networks over volumes: the same supernet, counting and building serve it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from kshot_ext.nas.networks.check_space import check_space
from kshot_ext.nas.spaces.space import NetworkShape, SearchSpace


class VolumeNetwork(nn.Sequential):
    """A class of the space's own, which has a method besides `forward`."""

    def features(self, volumes):
        return self[:-1](volumes)


class VolumeSpace(SearchSpace):
    """Two layers of a 3x3x3 or 1x1x1 convolution."""

    def __init__(self, image_shape=(2, 4, 6, 6)):
        super().__init__("volumes", image_shape=image_shape, num_classes=3, operations=[("k1", "k3")] * 2)

    def network_shape(self, ratios):
        return NetworkShape(None, (None, None), None)

    def stem(self, shape):
        return nn.Conv3d(self.image_shape[0], 4, 1)

    def candidate(self, operation, shape):
        size = int(operation[1])
        return nn.Sequential(nn.Conv3d(4, 4, size, padding=size // 2), nn.GroupNorm(2, 4), nn.ReLU())

    def head(self, shape):
        return nn.Sequential(nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(4, self.num_classes))

    def assemble(self, stem, layers, head):
        return VolumeNetwork(stem, *layers, head)


def test_supernet_counting_and_build_agree(seeded):
    check_space(VolumeSpace(), seeded(0), num_random=0)


def test_multiply_accumulates_count_all_positions():
    space = VolumeSpace()
    positions = 4 * 6 * 6
    assert space.count_macs(space.largest()) == positions * (2 * 4 + 2 * 27 * 4 * 4) + 4 * 3


def test_weights_lie_in_the_format_of_volumes(seeded):
    network = VolumeSpace().build(VolumeSpace().largest(), seeded(0))
    weights = [weight for weight in network.parameters() if weight.dim() == 5]
    assert len(weights) == 3
    assert all(weight.is_contiguous(memory_format=torch.channels_last_3d) for weight in weights)


def test_a_new_network_is_of_the_spaces_own_class_and_has_the_weights_of_build(seeded):
    space, volumes = VolumeSpace(), torch.randn(2, 2, 4, 6, 6)
    network, plain = (make(space.largest(), seeded(3)) for make in (space.new_network, space.build))
    assert isinstance(network, VolumeNetwork)
    torch.testing.assert_close(network(volumes), plain(volumes), rtol=0, atol=0)
    assert network.features(volumes).shape == (2, 4, 4, 6, 6)


@pytest.mark.parametrize("image_shape", [(3, 8), (1, 2, 3, 4, 5), (1, 4, 0, 4)])
def test_refuses_what_is_neither_image_nor_volume(image_shape):
    with pytest.raises(ValueError, match=r"image_shape: expected \(channels, height, width\), or \(channels, depth"):
        VolumeSpace(image_shape)
