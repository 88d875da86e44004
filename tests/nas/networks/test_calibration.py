import copy

import pytest
import torch
from torch import nn

from kshot_ext.nas.networks.calibration import recalibrate_batch_norm


@pytest.fixture
def images(seeded):
    """257 images, the later ones brighter, so that batches differ."""
    return 3 + torch.linspace(0, 4, 257).view(-1, 1, 1, 1) + 2 * torch.randn(257, 2, 3, 3, generator=seeded(0))


def _split(images, sizes):
    return [(batch, None) for batch in images.split(sizes)]


def _whole(values):
    """Mean and unbiased variance per channel of one set of values, in float64."""
    channels = values.double().transpose(0, 1).flatten(1)
    return channels.mean(dim=1).float(), channels.var(dim=1).float()


@pytest.mark.parametrize("sizes", [[257], [256, 1], [1, 256], [128, 128, 1], [250, 7], [1] * 257])
def test_statistics_are_those_of_all_images_together(images, sizes):
    statistics = recalibrate_batch_norm(nn.Sequential(nn.BatchNorm2d(2), nn.ReLU()), _split(images, sizes))
    mean, variance = _whole(images)
    torch.testing.assert_close(statistics["0.running_mean"], mean, rtol=1e-6, atol=0)
    torch.testing.assert_close(statistics["0.running_var"], variance, rtol=1e-6, atol=0)


@pytest.mark.parametrize(("layer", "shape"), [(nn.BatchNorm1d(2), (2,)), (nn.BatchNorm3d(2), (2, 1, 1, 1))])
def test_a_single_value_per_channel_in_the_last_batch(images, layer, shape):
    values = images[:, :, 0, 0].reshape(-1, *shape)
    statistics = recalibrate_batch_norm(layer, _split(values, [256, 1]))
    mean, variance = _whole(values)
    torch.testing.assert_close(statistics["running_mean"], mean, rtol=1e-6, atol=0)
    torch.testing.assert_close(statistics["running_var"], variance, rtol=1e-6, atol=0)


def test_a_small_spread_about_a_large_mean_is_not_lost(seeded):
    values = 1000 + 0.01 * torch.randn(300, 1, 2, 2, generator=seeded(0))
    variance = recalibrate_batch_norm(nn.BatchNorm2d(1), _split(values, [299, 1]))["running_var"]
    torch.testing.assert_close(variance, _whole(values)[1], rtol=1e-3, atol=0)


def test_deeper_layers_see_what_training_would_show_them(images):
    first, second = nn.BatchNorm2d(2), nn.BatchNorm2d(2)
    nn.init.constant_(first.weight, 5.0)
    statistics = recalibrate_batch_norm(nn.Sequential(first, second), _split(images, 128))
    torch.testing.assert_close(statistics["1.running_var"], torch.full((2,), 25.0), rtol=0.2, atol=0)


def test_a_remainder_of_one_image_hardly_moves_a_deep_network(images, seeded):
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(2, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Flatten(), nn.Linear(8, 8), nn.BatchNorm1d(8),
    )  # fmt: skip
    shuffled = images[torch.randperm(257, generator=seeded(1))]
    whole, split = (recalibrate_batch_norm(network, _split(shuffled, sizes)) for sizes in (257, [256, 1]))
    for name in (name for name in whole if name.endswith(("mean", "var"))):
        torch.testing.assert_close(split[name], whole[name], rtol=0.01, atol=0.005)


def test_a_layer_used_twice_joins_both_uses(images):
    layer = nn.BatchNorm2d(2, affine=False)

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = layer

        def forward(self, values):
            return self.norm(values), self.norm(input=10 * values)

    statistics = recalibrate_batch_norm(Twice(), [(images, None)])
    mean, variance = _whole(torch.cat([images, 10 * images]))
    torch.testing.assert_close(statistics["norm.running_mean"], mean, rtol=1e-6, atol=0)
    torch.testing.assert_close(statistics["norm.running_var"], variance, rtol=1e-6, atol=0)


def test_network_stays_as_it_was(images):
    network = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3)).train()
    before = copy.deepcopy(network.state_dict())
    statistics = recalibrate_batch_norm(network, _split(images, 100))
    assert network.training
    assert network[1].momentum == 0.1
    assert not network[1]._forward_pre_hooks
    assert all(torch.equal(network.state_dict()[name], value) for name, value in before.items())
    assert set(statistics) <= set(before)


def test_needs_a_batch_and_a_variance():
    with pytest.raises(ValueError, match="at least one batch"):
        recalibrate_batch_norm(nn.BatchNorm2d(1), [])
    with pytest.raises(ValueError, match=r"two or more values per channel in all.* layer '0' got one"):
        recalibrate_batch_norm(nn.Sequential(nn.BatchNorm2d(1)), [(torch.zeros(1, 1, 1, 1), None)])
