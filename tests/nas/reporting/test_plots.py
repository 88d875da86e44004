from __future__ import annotations

import math
from dataclasses import replace

import pytest

from kshot_ext.nas.networks.evaluation import Scores
from kshot_ext.nas.reporting import plots
from kshot_ext.nas.runs.results import RunResult
from kshot_ext.nas.searchers.pareto import Evaluated
from kshot_ext.nas.spaces.architecture import Architecture
from kshot_ext.nas.task import Regression


def test_loss_lines_show_the_records_of_their_stage() -> None:
    records = [
        {"stage": "supernet", "step": 1, "loss": 2.0},
        {"stage": "supernet", "step": 2, "loss": 1.5},
        {"stage": "supernet", "step": 3, "loss": None},
        {"stage": "search", "step": 1, "best_accuracy": 0.5},
        {"stage": "retrain-winner", "step": 1, "loss": 1.0},
    ]
    chart = plots.losses_chart(records, {"supernet": "supernet", "retrain-winner": "winner"})
    lines = {series.name: [(mark.x, mark.y) for mark in series.marks] for series in chart.series}
    assert lines == {"supernet": [(1, 2.0), (2, 1.5)], "winner": [(1, 1.0)]}
    assert all(series.line for series in chart.series)
    assert chart.from_zero


@pytest.mark.parametrize(
    ("score", "height"), [("loss", lambda scores: scores.loss), ("accuracy", lambda scores: 100 * scores.accuracy)]
)
def test_the_search_shows_everything_evaluated_the_front_and_the_budget(found: RunResult, score: str, height) -> None:
    without_numbers = Evaluated(Architecture((1,) * 8), Scores(0.1, math.inf), 10**6, 1)
    result = replace(found, score=score, considered=(*found.considered, without_numbers))
    chart = plots.search_chart(result)
    every, front, selected, random = chart.series
    assert [(mark.x, mark.y, mark.key) for mark in front.marks] == [
        (item.macs / 1e6, height(item.scores), item.architecture.short()) for item in found.front
    ]
    others = [item for item in found.considered if item not in found.front]
    assert [(mark.x, mark.y) for mark in every.marks[:-1]] == [
        (item.macs / 1e6, height(item.scores)) for item in others
    ]
    assert math.isnan(every.marks[-1].y)
    assert [mark.strength for mark in every.marks] == sorted(mark.strength for mark in every.marks)
    for series, network in ((selected, found.winner), (random, found.rivals[0])):
        scores = Scores(network.supernet_accuracy, network.supernet_loss)
        assert [(mark.x, mark.y) for mark in series.marks] == [(network.macs / 1e6, height(scores))]
        assert f"{network.title}, test accuracy {network.test_accuracy:.2%}" in series.marks[0].text
    assert chart.x_line == (2.0, "budget")
    unit = {"loss": "nats", "accuracy": "%"}[score]
    assert chart.y_label == f"validation {score} ({unit}) in the supernet"


def test_accuracies_are_shown_one_by_one_and_by_their_spread(found: RunResult) -> None:
    chart = plots.spread_chart(found)
    assert chart.rows == ["winner", "random"]
    winner, random = chart.series
    assert [mark.x for mark in winner.marks] == pytest.approx([98.76, 90, 95])
    assert [mark.y for mark in (*winner.marks, *random.marks)] == [0, 0, 0, 1]
    # mean 94.5866..., sample standard deviation 4.3946..., by hand
    assert winner.spread == pytest.approx((90.1920, 98.9814), abs=1e-3)
    assert random.spread is None
    assert chart.x_label == "test accuracy (%)"
    assert plots.spread_chart(replace(found, rivals=())).rows == ["winner"]


def test_metrics_that_are_no_shares_are_shown_as_they_are(found: RunResult) -> None:
    result = replace(found, task=Regression(), score="accuracy")
    spread = plots.spread_chart(result)
    assert [mark.x for mark in spread.series[0].marks] == [0.9876, 0.9, 0.95]
    assert spread.x_label == "test mean absolute error"
    assert plots.search_chart(result).y_label == "validation mean absolute error in the supernet"
    assert plots.search_chart(result).series[1].marks[0].y == found.front[0].scores.accuracy


def test_a_ranking_leaves_out_what_gave_no_numbers() -> None:
    chart = plots.ranking_chart([90.0, 91.0], [Scores(0.5, 1.0), Scores(0.1, math.nan)], "accuracy", "two")
    (series,) = chart.series
    assert (series.marks[0].x, series.marks[0].y) == (90.0, 50.0)
    assert math.isnan(series.marks[1].y)
