"""A search of a small space as its page gets it, without any training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from kshot_ext.nas.charts import Chart, HeatMap, Mark, Series
from kshot_ext.nas.findings import Figure, Findings
from kshot_ext.nas.networks.evaluation import Scores
from kshot_ext.nas.ranking.rank_correlation import RankCorrelation
from kshot_ext.nas.reporting import plots
from kshot_ext.nas.reporting.architectures import catalogue, choices_legend
from kshot_ext.nas.reporting.report import ReportFigures, render_report
from kshot_ext.nas.runs.results import RetrainedNetwork, RunResult
from kshot_ext.nas.searchers.pareto import Evaluated, pareto_front
from kshot_ext.nas.spaces.architecture import Architecture
from kshot_ext.nas.spaces.space import SearchSpace

WINNER, RIVAL = Architecture((0, 2) + (1,) * 6), Architecture((1, 2) + (1,) * 6)
HISTORY = [
    (WINNER, Scores(0.5, 1.2345)),
    (RIVAL, Scores(0.4, 2.5)),
    (Architecture((0,) * 8), Scores(0.4321, 1.8765)),
    (Architecture((2,) * 8), Scores(0.25, 1.5)),
]


def _retrained(
    space: SearchSpace, title: str, architecture: Architecture, scores: Scores, accuracies: tuple[float, ...]
):
    cost = space.cost(architecture)
    return RetrainedNetwork(
        title,
        architecture,
        space.operation_names(architecture),
        cost.macs,
        cost.parameters,
        scores.accuracy,
        scores.loss,
        accuracies[0],
        test_accuracies=accuracies,
    )


@pytest.fixture
def found(tiny_space: SearchSpace) -> RunResult:
    """What a search found: the winner was trained three times, one rival once; four were evaluated."""
    considered = tuple(
        Evaluated(architecture, scores, tiny_space.count_macs(architecture), tiny_space.count_parameters(architecture))
        for architecture, scores in HISTORY
    )
    winner = _retrained(tiny_space, "winner", *HISTORY[0], (0.9876, 0.9, 0.95))
    rival = _retrained(tiny_space, "random", *HISTORY[1], (0.8,))
    return RunResult(
        networks=(winner,),
        rivals=(rival,),
        considered=considered,
        front=pareto_front(considered),
        space=tiny_space,
        max_macs=2_000_000,
        score="loss",
        test_images=360,
        seconds={"supernet": 61.25, "search": 1.0},
    )


@pytest.fixture
def make_page(found: RunResult, tiny_space: SearchSpace) -> Callable[..., str]:
    """Makes the page: ``make_page(text, networks=...)`` has the text wherever text comes from outside."""

    def make(text: str = "digits", **changes: Any) -> str:
        findings = Findings(
            heading="What is learnt", facts={"kind": "good", text: text}, headline=("kind",), sentence="this went well"
        )
        result = replace(found, **{"findings": findings, **changes})
        chart = Chart([Series(text, [Mark(1, 2, text), Mark(3, 4)], line=True)], text, text, y_line=(3, text))
        shades = HeatMap([[0.125, 0.875]], [text], ["1", "2"], text, text, text, (0.5, text))
        figures = [Figure(text, text, chart), Figure(text, text, shades)]
        return render_report(
            text,
            {"data": text, "space": "s", "method": "m", "shots": "K = 2", "seed": "seed 0"},
            result,
            ReportFigures(
                Figure("Accuracy", text, plots.spread_chart(result)),
                Figure("Search", text, plots.search_chart(result)) if result.considered else None,
                figures,
            ),
            catalogue(tiny_space, result, f"kshot-ext retrain {text} --architecture"),
            choices_legend(tiny_space),
            {"training.epochs": 3, "data": text},
            {"command line": text, "SHA-256 of data": "0123456789abcdef" * 4},
            RankCorrelation(0.123, None, 4.567, 0.234, -0.345, 88.654, 92.321, 90.987),
        )

    return make
