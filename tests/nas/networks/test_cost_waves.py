import pytest
import torch

from kshot_ext.nas.networks.code_starts.cost_waves import CostWaves

SHOTS = 4


@pytest.fixture
def waves(tiny_space, seeded):
    return CostWaves(tiny_space, SHOTS, 1.0, seeded(0))


def test_the_crest_moves_with_the_cost_from_the_first_entry_to_the_last(tiny_space, waves, seeded):
    paths = sorted((tiny_space.sample(seeded(seed)) for seed in range(200)), key=tiny_space.count_macs)
    crests = waves([tiny_space.cheapest(), *paths, tiny_space.largest()])[:, 0].argmax(dim=1)
    assert crests.tolist() == sorted(crests.tolist())
    assert set(crests.tolist()) == set(range(SHOTS))
    assert (crests[0], crests[-1]) == (0, SHOTS - 1)


def test_entries_share_the_codes_nearly_equally(tiny_space, waves, seeded):
    generator = seeded(1)
    codes = waves([tiny_space.sample(generator) for _ in range(500)])[:, 0].softmax(dim=1)
    assert codes.mean(dim=0).min() > 0.6 / SHOTS
    assert torch.pdist(codes, p=1).mean() > 0.2


def test_architectures_of_similar_cost_have_similar_codes(tiny_space, waves, seeded):
    paths = sorted((tiny_space.sample(seeded(seed)) for seed in range(100)), key=tiny_space.count_macs)
    codes = waves(paths)[:, 0].softmax(dim=1)
    neighbours = (codes[1:] - codes[:-1]).abs().sum(dim=1)
    assert neighbours.mean() < 0.2 * torch.pdist(codes, p=1).mean()


def test_the_size_is_the_amplitude_and_one_copy_needs_no_wave(tiny_space, waves, seeded):
    paths = [tiny_space.sample(seeded(seed)) for seed in range(5)]
    larger = CostWaves(tiny_space, SHOTS, 3.0, seeded(0))
    torch.testing.assert_close(larger(paths), 3 * waves(paths))
    assert torch.equal(CostWaves(tiny_space, 1, 1.0, seeded(0))(paths), torch.ones(5, 1, 1))
