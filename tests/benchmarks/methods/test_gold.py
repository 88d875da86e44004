"""The measurement of gradual pruning runs."""

import pytest

from benchmarks.methods.gold import run


@pytest.mark.usefixtures("one_thread")
def test_the_quick_form_leaves_a_series_that_grows_cheaper():
    [found] = run([0], quick=True)["runs"]
    assert found["costs fall"]
    assert found["costs of results"] == sorted(found["costs of results"], reverse=True)
    assert len(found["networks"]) >= 2
    for network in found["networks"]:
        assert abs(network["random macs"] / network["macs"] - 1) <= 0.1
