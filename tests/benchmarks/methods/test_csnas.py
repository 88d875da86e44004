"""The measurement of csnas runs, on digits."""

import math

import pytest

from benchmarks.methods import csnas


@pytest.mark.usefixtures("one_thread")
def test_the_quick_form_measures_what_it_says():
    pytest.importorskip("optuna", reason="optuna is not installed")
    found = csnas.run([0], quick=True)
    arms = found["arms"]
    for method in ("tpe", "random"):
        assert 0 < arms[method]["best loss"]["mean"] <= arms[method]["mean best so far"]["mean"] < math.inf
    assert -1 <= arms["scores"]["spearman_rho"]["mean"] <= 1
