import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from repeatable import integers

from kshot_ext.nas.spaces import create_space
from kshot_ext.nas.spaces.architecture import Architecture
from kshot_ext.nas.spaces.bit_widths import parse_bits
from kshot_ext.nas.spaces.limits import SearchLimits, repair

SPACE = create_space("nas-bench-macro", image_shape=(1, 8, 8), num_classes=3, channels=2)
LEAST, MOST = SPACE.count_macs(SPACE.cheapest()), SPACE.count_macs(SPACE.largest())


@settings(deadline=None)
@given(
    operations=st.tuples(*[integers(0, 2)] * 8),
    hundredths=st.tuples(integers(0, 99), integers(0, 99)),
    seed=integers(0, 99),
)
def test_repair_always_meets_the_budget(operations, hundredths, seed):
    max_macs = LEAST + (MOST - LEAST) * (100 * hundredths[0] + hundredths[1]) // 9999
    limits, architecture = SearchLimits(max_macs), Architecture(operations)
    repaired = repair(architecture, SPACE, limits, torch.Generator().manual_seed(seed))
    assert SPACE.count_macs(repaired) <= max_macs
    if SPACE.count_macs(architecture) <= max_macs:
        assert repaired == architecture


NARROWABLE = create_space(
    "nas-bench-macro", image_shape=(1, 8, 8), num_classes=3, channels=3, widths=(0.1, 0.2, 0.3, 0.5, 1.0)
)


@settings(deadline=None, max_examples=40)
@given(genes=st.tuples(*[integers(0, 2)] * 8, *[integers(0, 4)] * 8), seed=integers(0, 99))
def test_repair_narrows_down_to_the_least_that_there_is(genes, seed):
    """With so few channels several widths round to the same: repair has to pass over them."""
    limits = SearchLimits(NARROWABLE.count_macs(NARROWABLE.cheapest()))
    architecture = NARROWABLE.from_genes(genes)
    repaired = repair(architecture, NARROWABLE, limits, torch.Generator().manual_seed(seed))
    assert NARROWABLE.count_macs(repaired) == limits.max_macs


def test_repair_that_finds_nothing_better_nearby_starts_from_the_cheapest():
    """All have the latency 2 but for the cheapest, which no way of small steps leads to."""
    limits = SearchLimits(max_latency=1, latency=lambda architecture: 1 + (architecture != SPACE.cheapest()))
    assert repair(SPACE.largest(), SPACE, limits, torch.Generator().manual_seed(0)) == SPACE.cheapest()


def milliseconds(architecture):
    """A device on which the third operation is quick and the second slow."""
    return sum((1, 3, 0.5)[operation] for operation in architecture.operations)


@settings(deadline=None, max_examples=40)
@given(operations=st.tuples(*[integers(0, 2)] * 8), seed=integers(0, 99))
def test_repair_meets_several_limits_at_once(operations, seed):
    cheapest = SPACE.cost(SPACE.cheapest())
    limits = SearchLimits(2 * cheapest.macs, int(1.5 * cheapest.parameters), 8.5, milliseconds)
    architecture = Architecture(operations)
    repaired = repair(architecture, SPACE, limits, torch.Generator().manual_seed(seed))
    cost = SPACE.cost(repaired)
    assert cost.macs <= limits.max_macs
    assert cost.parameters <= limits.max_parameters
    assert milliseconds(repaired) <= 8.5
    assert not limits.admit(SPACE, SPACE.largest())


def test_limits_that_exclude_each_other_are_refused():
    fastest = 8 * 0.5
    SearchLimits(max_latency=fastest, latency=milliseconds).check_reachable(SPACE)
    with pytest.raises(ValueError, match=r"at most 4\.0 milliseconds; the nearest has .* milliseconds"):
        SearchLimits(LEAST, max_latency=fastest, latency=milliseconds).check_reachable(SPACE)
    fewest = SPACE.count_parameters(SPACE.cheapest())
    with pytest.raises(ValueError, match=f"at most {fewest // 2:,} parameters; the nearest"):
        SearchLimits(max_parameters=fewest // 2).check_reachable(SPACE)


def test_no_limit_admits_everything():
    assert SearchLimits().admit(SPACE, SPACE.largest())


def test_unreachable_budget_names_the_range_on_offer():
    with pytest.raises(ValueError, match=f"at most {LEAST - 1:,} .*from {LEAST:,} to {MOST:,}"):
        SearchLimits(LEAST - 1).check_reachable(SPACE)
    SearchLimits(LEAST).check_reachable(SPACE)


def test_rejects_a_budget_below_one():
    with pytest.raises(ValueError, match=r"max_macs.*got 0"):
        SearchLimits(0)
    with pytest.raises(ValueError, match=r"max_parameters.*got 0"):
        SearchLimits(max_parameters=0)
    with pytest.raises(ValueError, match="max_latency: expected latency too"):
        SearchLimits(max_latency=3)


def test_bit_operations_are_limited_beside_multiply_accumulates():
    space = create_space(
        "nas-bench-macro", image_shape=(1, 8, 8), num_classes=3, channels=2, bits=parse_bits("w2a2,w8a8")
    )
    largest, generator = space.largest(), torch.Generator().manual_seed(0)
    most = space.cost(largest).bit_operations // 4
    limits = SearchLimits(max_bit_operations=most)
    assert limits.excess(space, largest) == pytest.approx(3, abs=0.01)
    assert space.cost(repair(largest, space, limits, generator)).bit_operations <= most
    least = space.cost(space.cheapest()).bit_operations
    SearchLimits(max_bit_operations=least).check_reachable(space)
    with pytest.raises(
        ValueError, match=f"at most {least - 1:,} bit operations; the nearest .* {least:,} bit operations"
    ):
        SearchLimits(max_bit_operations=least - 1).check_reachable(space)
    with pytest.raises(ValueError, match=r"max_bit_operations.*got 0"):
        SearchLimits(max_bit_operations=0)
