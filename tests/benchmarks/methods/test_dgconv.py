"""What gates learn, in a form that says nothing of it."""

import json

import pytest

from benchmarks.compare import RESULTS
from benchmarks.methods import dgconv


def test_the_quick_form_gives_what_the_committed_results_have():
    found, committed = (dgconv.run([0], quick=True), json.loads((RESULTS / "methods" / "dgconv.json").read_text()))
    assert {key: set(value) for key, value in found.items() if isinstance(value, dict)} == {
        key: set(value) for key, value in committed.items() if isinstance(value, dict)
    }
    assert found["largest relative error of an export"] <= 1e-5
    assert committed["largest relative error of an export"] <= 1e-5
    assert all(len(teacher["learnt groups"]) == 3 for teacher in committed["teachers"].values())


def test_a_layer_finds_the_groups_of_its_teacher():
    learnt, loss = dgconv.recovered(4, seed=0, steps=600)
    assert learnt == 4
    assert loss == pytest.approx(0, abs=1e-4)
