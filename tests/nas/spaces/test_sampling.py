import pytest

from kshot_ext.nas.spaces import create_space
from kshot_ext.nas.spaces.bit_widths import parse_bits
from kshot_ext.nas.spaces.limits import SearchLimits
from kshot_ext.nas.spaces.sampling import (
    random_architecture_near,
    random_architecture_of_equal_budget,
    random_architectures,
)


def test_architectures_differ_and_meet_the_budget(tiny_space, seeded):
    limits = SearchLimits(tiny_space.count_macs(tiny_space.largest()) // 2)
    found = random_architectures(tiny_space, limits, 40, seeded(0))
    assert len(set(found)) == len(found) == 40
    assert all(limits.admit(tiny_space, architecture) for architecture in found)
    assert found == random_architectures(tiny_space, limits, 40, seeded(0))


def test_too_few_architectures_within_the_budget(tiny_space, seeded):
    limits = SearchLimits(tiny_space.count_macs(tiny_space.cheapest()))
    with pytest.raises(ValueError, match=r"expected 3 different .*found only"):
        random_architectures(tiny_space, limits, 3, seeded(0))


def test_equal_budget_is_within_tolerance_and_not_the_excluded_one(tiny_space, seeded):
    winner = tiny_space.sample(seeded(1))
    macs = tiny_space.count_macs(winner)
    for seed in range(5):
        other = random_architecture_of_equal_budget(tiny_space, macs, 0.05, seeded(seed), exclude=[winner])
        assert other != winner
        assert abs(tiny_space.count_macs(other) - macs) <= 0.05 * macs


def test_impossible_budget_names_the_nearest(tiny_space, seeded, monkeypatch):
    monkeypatch.setattr("kshot_ext.nas.spaces.sampling._TRIES_FOR_EQUAL_BUDGET", 50)
    with pytest.raises(ValueError, match=r"in 50 random tries; the nearest has \d"):
        random_architecture_of_equal_budget(tiny_space, 10**9, 0.01, seeded(0))


def test_without_an_equal_budget_the_nearest_comes_near(tiny_space, seeded, monkeypatch):
    monkeypatch.setattr("kshot_ext.nas.spaces.sampling._TRIES_FOR_EQUAL_BUDGET", 50)
    generator = seeded(0)
    drawn = [tiny_space.sample(generator) for _ in range(50)]
    near = random_architecture_near(tiny_space, 10**9, 0.02, seeded(0))
    assert near == max(drawn, key=tiny_space.count_macs) != drawn[0]
    monkeypatch.setattr("kshot_ext.nas.spaces.sampling._TRIES_FOR_EQUAL_BUDGET", 1)
    with pytest.raises(ValueError, match="no other architecture of space nas-bench-macro than the 1 excluded"):
        random_architecture_near(tiny_space, 10**9, 0.02, seeded(0), exclude=[drawn[0]])


def test_equal_budget_may_be_one_of_bit_operations(seeded):
    space = create_space(
        "nas-bench-macro", image_shape=(1, 8, 8), num_classes=3, channels=2, bits=parse_bits("w2a2,w8a8")
    )
    amount = space.cost(space.sample(seeded(1))).bit_operations
    other = random_architecture_of_equal_budget(space, amount, 0.05, seeded(0), cost="bit_operations")
    assert abs(space.cost(other).bit_operations - amount) <= 0.05 * amount


def test_more_architectures_than_there_are_is_said_at_once(tiny_space, seeded, monkeypatch):
    monkeypatch.setattr(tiny_space, "sample", None)  # not one is drawn
    with pytest.raises(ValueError, match=r"expected 6562 .* which has 6561: take a smaller population"):
        random_architectures(tiny_space, SearchLimits(), 6562, seeded(0))
