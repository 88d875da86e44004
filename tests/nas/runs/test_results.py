"""How the winner and its rivals are summed up."""

from __future__ import annotations

import statistics

import pytest

from kshot_ext.nas.reporting.report import comparison_sentence
from kshot_ext.nas.runs.spread import Comparison, Spread

WINNER, RIVALS = [0.99, 0.97, 0.98], [0.91, 0.98]


def test_mean_and_deviation_are_those_of_a_sample() -> None:
    for values in (WINNER, RIVALS):
        spread = Spread.of(values)
        assert spread.mean == pytest.approx(statistics.mean(values))
        assert spread.deviation == pytest.approx(statistics.stdev(values))
        assert spread.count == len(values)
    assert Spread.of([0.5]) == Spread(0.5, None, 1)
    assert str(Spread.of(RIVALS)) == "94.50% ± 4.95"
    assert str(Spread.of([0.5])) == "50.00%"


def test_the_difference_has_a_standard_error() -> None:
    comparison = Comparison(Spread.of(WINNER), Spread.of(RIVALS))
    assert comparison.difference == pytest.approx(0.98 - 0.945)
    variance = statistics.variance(WINNER) / 3 + statistics.variance(RIVALS) / 2
    assert comparison.standard_error == pytest.approx(variance**0.5)
    assert comparison_sentence(comparison, 360) == (
        "The winner had 98.00% ± 1.00 in 3 trainings, 2 random networks of its cost 94.50% ± 4.95 (mean ± standard "
        "deviation in points, 360 test images): 3.50 points more, with a standard error of 3.55 over trainings; "
        "that of an accuracy on 360 images is 0.82 besides."
    )


def test_a_single_training_has_no_spread() -> None:
    comparison = Comparison(Spread.of([0.9]), Spread.of([0.95]))
    assert comparison.standard_error is None
    assert comparison_sentence(comparison, 60).endswith(
        "60 test images): 5.00 points less, of which a single training on one side tells little."
    )
