from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from kshot_ext.nas.networks.evaluation import Scores
from kshot_ext.nas.reporting import plots
from kshot_ext.nas.runs.results import RetrainedNetwork, RunResult
from kshot_ext.nas.searchers.pareto import Evaluated, pareto_front
from kshot_ext.nas.spaces.architecture import Architecture

HISTORY = [
    Evaluated(Architecture((index,)), Scores(0.5 + 0.03 * (index % 4), 0.01 * (index % 4)), 10**6 * index, 1)
    for index in range(1, 9)
]


def _result(score: str = "loss", considered: tuple[Evaluated, ...] = ()) -> RunResult:
    winner = RetrainedNetwork("winner", Architecture((0, 1)), ("identity", "mb3_k3"), 3 * 10**6, 5, 0.6, 0.02, 0.9)
    random = RetrainedNetwork("random", Architecture((1, 1)), ("mb3_k3", "mb3_k3"), 3 * 10**6, 5, 0.5, 0.01, 0.8)
    return RunResult(
        networks=(winner,), rivals=(random,), considered=considered, max_macs=6 * 10**6, score=score, seconds={}
    )


def test_loss_lines_show_the_records_of_their_stage() -> None:
    records = [
        {"stage": "supernet", "step": 1, "loss": 2.0},
        {"stage": "supernet", "step": 2, "loss": 1.5},
        {"stage": "search", "step": 1, "best_accuracy": 0.5},
        {"stage": "retrain-winner", "step": 1, "loss": 1.0},
    ]
    (axes,) = plots.plot_losses(records, {"supernet": "supernet", "retrain-winner": "winner"}).axes
    lines = {line.get_label(): line.get_xydata().tolist() for line in axes.lines}
    assert lines == {"supernet": [[1, 2.0], [2, 1.5]], "winner": [[1, 1.0]]}


def test_the_search_shows_everything_evaluated_the_front_and_the_budget() -> None:
    without_numbers = Evaluated(Architecture((0,)), Scores(0.1, math.inf), 10**6, 1)
    for score, height, expected in (
        ("accuracy", lambda scores: 100 * scores.accuracy, [[1, 53], [2, 56], [3, 59]]),
        ("loss", lambda scores: scores.loss, [[1, 0.01], [4, 0.0]]),
    ):
        history = [replace(item, score=score) for item in HISTORY]
        figure = plots.plot_search(pareto_front(history), _result(score, (*history, without_numbers)))
        axes = figure.axes[0]
        dots, winner, random = (collection.get_offsets() for collection in axes.collections)
        np.testing.assert_allclose(dots[:-1], [[item.macs / 1e6, height(item.scores)] for item in history])
        assert dots.mask[-1].any()  # not drawn
        front, budget = axes.lines
        np.testing.assert_allclose(front.get_xydata(), expected)
        np.testing.assert_allclose(
            [winner[0], random[0]], [[3, height(Scores(a, b))] for a, b in ((0.6, 0.02), (0.5, 0.01))]
        )
        assert list(budget.get_xdata()) == [6, 6]
        assert axes.get_ylabel().startswith(f"validation {score}")


def test_an_architecture_is_drawn_with_stem_operations_and_head() -> None:
    (axes,) = plots.draw_architectures(_result().compared, {"identity": "identity", "mb3_k3": "mb3_k3"}).axes
    texts = [text.get_text() for text in axes.texts if text.get_text()]
    assert texts == ["stem", "identity", "mb3\nk3", "head", "winner", "stem", "mb3\nk3", "mb3\nk3", "head", "random"]
    colours = [patch.get_facecolor() for patch in axes.patches]
    assert colours[2] == colours[5] == colours[6] != colours[1]
