"""The measurement of selection by perturbation runs."""

import pytest

from benchmarks.methods.darts_pt import run


@pytest.mark.usefixtures("one_thread")
def test_the_quick_form_picks_in_both_spaces_by_both_ways():
    spaces = run([0], quick=True)["spaces"]
    assert set(spaces) == {"skip or convolution", "noise or convolution"}
    for found in spaces.values():
        for numbers in found["share of convolutions"].values():
            assert 0 <= numbers["mean"] <= 1
        for numbers in found["accuracy trained anew"].values():
            assert 0 < numbers["mean"] <= 1
        ways = [numbers["mean"] for numbers in found["share of convolutions"].values()]
        assert found["agreement"]["mean"] <= 1 - abs(ways[0] - ways[1]) + 1e-9
