"""Geometric means."""

import pytest

from benchmarks.reporting.means import geometric_mean


def test_geometric_mean():
    assert geometric_mean([1, 4]) == pytest.approx(2)
    assert geometric_mean([0.5, 2, 8]) == pytest.approx(2)


def test_weights():
    assert geometric_mean([1, 16], [3, 1]) == pytest.approx(2)


@pytest.mark.parametrize("values", [[], [1, 0], [float("nan")]])
def test_rejects(values):
    with pytest.raises(ValueError, match="positive"):
        geometric_mean(values)
