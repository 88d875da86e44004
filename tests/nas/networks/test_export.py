import pytest
import torch
from torch import nn

from kshot_ext.nas.datasets.batches import batches
from kshot_ext.nas.networks.export import extract
from kshot_ext.nas.networks.supernet import Supernet

CODE = torch.tensor([0.2, 0.3, 0.5])


@pytest.fixture
def supernet(tiny_space, seeded):
    """A supernet whose running statistics are not the initial ones."""
    supernet = Supernet(tiny_space, 3, seeded(0)).train()
    images = torch.rand(16, 1, 8, 8, generator=seeded(1))
    for seed in range(8):
        supernet(images, tiny_space.sample(seeded(seed)), CODE)
    return supernet


@pytest.mark.parametrize("training", [False, True])
def test_extracted_network_equals_the_supernet(supernet, tiny_space, seeded, training):
    images = torch.rand(9, 1, 8, 8, generator=seeded(2))
    for seed in range(20, 24):
        architecture = tiny_space.sample(seeded(seed))
        network = extract(supernet, architecture, CODE).train(training)
        expected = supernet.train(training)(images, architecture, CODE)
        torch.testing.assert_close(network(images), expected, rtol=1e-4, atol=1e-5)


def test_recalibrated_network_equals_the_supernet_with_those_statistics(supernet, tiny_space, tiny_splits, seeded):
    architecture = tiny_space.largest()
    calibration = list(batches(tiny_splits.train, 16, mean=tiny_splits.mean, std=tiny_splits.std))
    network = extract(supernet, architecture, CODE, calibration).eval()
    stale = extract(supernet, architecture, CODE).eval()
    images = calibration[0][0]
    assert not torch.allclose(network(images), stale(images))
    path = supernet.path(architecture)
    path.load_state_dict(dict(network.named_buffers()), strict=False)
    expected = supernet.eval()(images, architecture, CODE)
    torch.testing.assert_close(network(images), expected, rtol=1e-4, atol=1e-5)


def test_extracted_network_is_plain_and_apart(supernet, tiny_space):
    architecture = tiny_space.largest()
    network = extract(supernet, architecture, CODE)
    assert {type(m).__module__.partition(".")[0] for m in network.modules() if m is not network} == {"torch"}
    assert sum(p.numel() for p in network.parameters()) == tiny_space.count_parameters(architecture)
    before = supernet.get_parameter("stem.0.weight").clone()
    nn.init.zeros_(network.get_submodule("stem.0").weight)
    assert torch.equal(supernet.get_parameter("stem.0.weight"), before)


def test_refuses_a_code_of_another_length(supernet, tiny_space):
    with pytest.raises(ValueError, match="code"):
        extract(supernet, tiny_space.cheapest(), torch.tensor([0.5, 0.5]))
