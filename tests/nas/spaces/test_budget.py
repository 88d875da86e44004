import pytest

from kshot_ext.nas.spaces import create_space
from kshot_ext.nas.spaces.bit_widths import parse_bits
from kshot_ext.nas.spaces.budget import Budget
from kshot_ext.nas.spaces.space import SearchSpace


@pytest.mark.parametrize(
    ("text", "amount"),
    [("1500000", 1.5e6), ("1.5e6", 1.5e6), ("1.5M", 1.5e6), ("1500 k", 1.5e6), ("2G", 2e9), (3, 3.0), (1e20, 1e20)],
)
def test_reads_numbers(text: str | float, amount: float) -> None:
    assert Budget.parse(text) == Budget(amount, relative=False)


def test_a_share_is_taken_of_the_largest_network() -> None:
    space = create_space("nas-bench-macro", image_shape=(1, 8, 8), num_classes=10, channels=8)
    largest = space.count_macs(space.largest())
    assert Budget.parse("100%").max_macs(space) == largest
    assert Budget.parse("12.5%").max_macs(space) == largest // 8
    assert Budget.parse("12345").max_macs(space) == 12345


@pytest.mark.parametrize("text", ["", "0", "0%", "-3", "60 percent", "1e6e6", "1T", "nan", "1e999", "٣", True])
def test_rejects_other_forms(text: str) -> None:
    with pytest.raises(ValueError, match=r"budget: expected multiply-accumulates .* share .*, got"):
        Budget.parse(text)


def test_a_budget_beyond_all_integers_is_no_limit(tiny_space: SearchSpace) -> None:
    for text in ("1e300G", "1e308%"):
        assert Budget.parse(text).max_macs(tiny_space) == 2**62


def test_bit_operations_have_a_budget_of_their_own() -> None:
    shape = {"image_shape": (1, 8, 8), "num_classes": 10, "channels": 8}
    space = create_space("nas-bench-macro", **shape, bits=parse_bits("2,4"))
    largest = space.cost(space.largest())
    # Searched layers have 4 bits at most; stem and head always have 8.
    assert 16 * largest.macs < largest.bit_operations < 64 * largest.macs
    assert Budget.parse("25%").max_bit_operations(space) == largest.bit_operations // 4
    assert Budget.parse("2M").max_bit_operations(space) == 2_000_000
    with pytest.raises(ValueError, match=r"bit_budget: expected bit operations such as 1\.5e6"):
        Budget.parse("few", "bit_budget", "bit_operations")
