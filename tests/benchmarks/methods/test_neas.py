"""The measurement of neas runs, on digits."""

import pytest

from benchmarks.methods import neas


@pytest.mark.usefixtures("one_thread")
def test_the_quick_form_measures_what_it_says():
    found = neas.run([0], quick=True)
    path, *ensembles = found["arms"].values()
    low, high = found["shares of the largest path's cost"]
    for arm in (path, *ensembles):
        assert 0 <= arm["accuracy"]["mean"] <= 1
        assert low <= arm["share of the largest path's cost"]["mean"] <= high
    for arm in ensembles:
        assert arm["worst network's accuracy"]["mean"] <= arm["best network's accuracy"]["mean"]
        # The cross-entropy is convex: the mean of the scores is no worse than the mean of the networks.
        assert arm["loss"]["mean"] <= arm["worst network's loss"]["mean"]
        assert arm["cost of the networks one by one"]["mean"] > arm["share of the largest path's cost"]["mean"]
