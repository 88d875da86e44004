"""The measurement of setn runs, on digits."""

import math

import pytest

from benchmarks.methods import setn


@pytest.mark.usefixtures("one_thread")
def test_the_quick_form_measures_what_it_says():
    found = setn.run([0], quick=True)
    arms = found["arms"]
    assert {"uniform", "sampled", "likeliest", "evaluator"} == arms.keys()
    assert 0 < arms["evaluator"]["entropy"]["mean"] <= math.log(5)
    for arm in ("uniform", "sampled", "likeliest"):
        assert 0 <= arms[arm]["mean accuracy"]["mean"] <= arms[arm]["best accuracy"]["mean"] <= 1
        assert 0 < arms[arm]["best loss"]["mean"] <= arms[arm]["mean loss"]["mean"]
