"""The measurement of spos in a quick form, and when its claims hold."""

import pytest

from benchmarks.methods import spos


@pytest.mark.usefixtures("one_thread")
def test_it_measures_every_claim():
    found = spos.run([3, 4], quick=True)
    numbers = found["numbers"]
    assert found["seeds"] == [3, 4]
    assert found["means"]["share_within_budget"] == 1
    assert {len(values) for values in numbers.values()} == {2}
    size = spos.QUICK
    assert numbers["evaluations_evolution"] == numbers["evaluations_random"] == [size.population * size.generations] * 2
    assert numbers["share_within_budget"] == [1.0, 1.0]
    for mixed, uniform in zip(numbers["bit_operations_mixed"], numbers["bit_operations_uniform"]):
        assert 0 < mixed <= uniform
    assert all(0 <= accuracy <= 1 for accuracy in numbers["test_accuracy_mixed"])
    assert found["claims"] == spos.claims(numbers)


EXAMPLE = {
    "tau_recalibrated": [0.5, 0.7],
    "tau_running": [0.6, 0.1],
    "loss_evolution": [1.0, 1.1],
    "loss_random": [1.2, 0.9],
    "share_within_budget": [1.0, 1.0],
    "test_accuracy_mixed": [0.4, 0.5],
    "test_accuracy_uniform": [0.4, 0.4],
}


def test_claims_are_about_means_and_the_one_about_budgets_about_every_network():
    assert all(spos.claims(EXAMPLE).values())
    for change, claim in (
        ({"tau_running": [0.6, 0.7]}, "recalibration lifts the rank correlation"),
        ({"loss_random": [1.2, 0.8]}, "evolution's best is at least random search's"),
        ({"share_within_budget": [1.0, 0.99]}, "every network keeps to the budget"),
        ({"test_accuracy_mixed": [0.4, 0.4]}, "mixed bits beat uniform ones"),
    ):
        assert [name for name, holds in spos.claims({**EXAMPLE, **change}).items() if not holds] == [claim]
