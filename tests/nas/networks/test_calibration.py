import copy

import pytest
import torch
from torch import nn

from kshot_ext.nas.networks.calibration import recalibrate_batch_norm


@pytest.fixture
def batches(seeded):
    generator = seeded(0)
    return [(3 + 2 * torch.randn(size, 2, 4, 4, generator=generator), None) for size in (8, 8, 5)]


def test_statistics_are_the_average_over_the_batches(batches):
    network = nn.Sequential(nn.BatchNorm2d(2), nn.ReLU())
    statistics = recalibrate_batch_norm(network, batches)
    means = [images.mean(dim=(0, 2, 3)) for images, _ in batches]
    variances = [images.transpose(0, 1).flatten(1).var(dim=1) for images, _ in batches]
    torch.testing.assert_close(statistics["0.running_mean"], torch.stack(means).mean(dim=0))
    torch.testing.assert_close(statistics["0.running_var"], torch.stack(variances).mean(dim=0))


def test_deeper_layers_see_what_training_would_show_them(batches):
    first, second = nn.BatchNorm2d(2), nn.BatchNorm2d(2)
    nn.init.constant_(first.weight, 5.0)
    statistics = recalibrate_batch_norm(nn.Sequential(first, second), batches)
    torch.testing.assert_close(statistics["1.running_var"], torch.full((2,), 25.0), rtol=0.02, atol=0)


def test_network_stays_as_it_was(batches):
    network = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3)).train()
    before = copy.deepcopy(network.state_dict())
    statistics = recalibrate_batch_norm(network, batches)
    assert network.training
    assert network[1].momentum == 0.1
    assert all(torch.equal(network.state_dict()[name], value) for name, value in before.items())
    assert set(statistics) <= set(before)


def test_needs_a_batch():
    with pytest.raises(ValueError, match="at least one batch"):
        recalibrate_batch_norm(nn.BatchNorm2d(1), [])
