from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from kshot_ext.nas.networks.code_analysis import Spectrum
from kshot_ext.nas.networks.code_report import CodeReport
from kshot_ext.nas.networks.evaluation import Scores
from kshot_ext.nas.reporting import plots
from kshot_ext.nas.runs.results import RetrainedNetwork, RunResult
from kshot_ext.nas.search.pareto import Evaluated, pareto_front
from kshot_ext.nas.spaces.architecture import Architecture

HISTORY = [
    Evaluated(Architecture((index,)), Scores(0.5 + 0.03 * (index % 4), 0.01 * (index % 4)), 10**6 * index, 1)
    for index in range(1, 9)
]


def _result(score: str = "loss") -> RunResult:
    winner = RetrainedNetwork("winner", Architecture((0, 1)), ("identity", "mb3_k3"), 3 * 10**6, 5, 0.6, 0.02, 0.9)
    random = RetrainedNetwork("random", Architecture((1, 1)), ("mb3_k3", "mb3_k3"), 3 * 10**6, 5, 0.5, 0.01, 0.8)
    codes = CodeReport(0.3, (0.5, 0.5), Spectrum((2.0, 1.0), 2, 1.9))
    return RunResult(winner, random, max_macs=6 * 10**6, score=score, codes=codes, seconds={})


def test_a_figure_becomes_a_png_file(tmp_path: Path) -> None:
    plots.save_png(plots.plot_codes(torch.eye(3), ["a", "b", "c"]), tmp_path / "codes.png")
    with Image.open(tmp_path / "codes.png") as image:
        assert image.format == "PNG"
        assert min(image.size) > 200


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
        figure = plots.plot_search([*history, without_numbers], pareto_front(history), _result(score))
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


@pytest.mark.parametrize("codes", [[[0.25, 0.25, 0.25, 0.25], [0.26, 0.24, 0.25, 0.25]], [[1.0, 0.0], [0.0, 1.0]]])
def test_the_colour_of_a_coefficient_is_the_same_in_every_run(codes: list[list[float]]) -> None:
    axes = plots.plot_codes(torch.tensor(codes), ["a", "b"]).axes[0]
    assert axes.images[0].get_clim() == (0, 1)
    assert torch.equal(torch.tensor(axes.images[0].get_array()), torch.tensor(codes))
    assert axes.get_xlabel() == "shot"


def test_codes_that_hardly_differ_look_alike() -> None:
    def colours(codes: list[float]) -> np.ndarray:
        return plots.plot_codes(torch.tensor([codes]), ["a"]).axes[0].images[0].make_image(None, unsampled=True)[0]

    alike, apart = colours([0.24, 0.26]).astype(int)[0], colours([0.0, 1.0]).astype(int)[0]
    assert np.abs(alike[0] - alike[1]).max() <= 6
    assert np.abs(apart[0] - apart[1]).max() > 100


def test_codes_of_layers_are_drawn_as_their_mean() -> None:
    codes = torch.rand(3, 5, 4).softmax(dim=2)
    axes = plots.plot_codes(codes, ["a", "b", "c"]).axes[0]
    torch.testing.assert_close(torch.tensor(axes.images[0].get_array()), codes.mean(dim=1))
    assert axes.get_xlabel() == "shot (mean over the layers)"


def test_the_codes_of_thousands_of_shots_can_be_drawn() -> None:
    figure = plots.plot_codes(torch.rand(2, 4096).softmax(dim=1), ["a", "b"])
    assert figure.get_size_inches()[0] < 30
    assert len(figure.axes[0].get_xticks()) <= 40


def test_small_distances_of_codes_are_drawn_below_the_least_of_a_k_shot_run() -> None:
    (axes,) = plots.plot_code_distances({"run": [(1, 0.001), (2, 0.002)]}, "epoch").axes
    low, high = axes.get_ylim()
    assert low == 0
    assert high > 0.1
    assert [line.get_ydata()[0] for line in axes.lines] == [0.001, 0.1]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["run", "least of a K-shot run"]


def test_an_architecture_is_drawn_with_stem_operations_and_head() -> None:
    (axes,) = plots.draw_architectures(_result().networks, ["identity", "mb3_k3"]).axes
    texts = [text.get_text() for text in axes.texts if text.get_text()]
    assert texts == ["stem", "identity", "mb3\nk3", "head", "winner", "stem", "mb3\nk3", "mb3\nk3", "head", "random"]
    colours = [patch.get_facecolor() for patch in axes.patches]
    assert colours[2] == colours[5] == colours[6] != colours[1]
