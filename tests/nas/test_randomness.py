import torch

from kshot_ext.nas.randomness import draw_seed, seeded_by


def test_the_generator_decides_and_the_global_state_survives(seeded):
    before = torch.get_rng_state()
    draws = []
    for seed in (0, 0, 1):
        with seeded_by(seeded(seed)):
            draws.append(torch.rand(3))
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert torch.equal(torch.get_rng_state(), before)


def test_one_generator_gives_different_seeds(seeded):
    generator = seeded(0)
    assert len({draw_seed(generator) for _ in range(20)}) == 20
    with seeded_by(generator):
        first = torch.rand(3)
    with seeded_by(generator):
        assert not torch.equal(first, torch.rand(3))
