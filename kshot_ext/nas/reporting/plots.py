"""The charts of a run."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from kshot_ext.nas.charts import Chart, Mark, Series, curves_chart, is_finite
from kshot_ext.nas.networks.evaluation import Scores
from kshot_ext.nas.runs.results import RetrainedNetwork, RunResult
from kshot_ext.nas.searchers.pareto import Evaluated
from kshot_ext.nas.spaces.architecture import Architecture

_SCORE_LABELS = {
    "loss": "validation loss in the supernet (nats)",
    "accuracy": "validation accuracy in the supernet (%)",
}
_FAINTEST = 0.3


def losses_chart(records: Sequence[Mapping[str, Any]], titles: Mapping[str, str]) -> Chart:
    """Training loss over epochs, one line per stage.

    Args:
        records: lines of ``metrics.jsonl``; those with a ``loss`` are drawn.
        titles: legend of each stage, by its name in the records.
    """
    curves = {
        title: [(r["step"], r["loss"]) for r in records if r["stage"] == stage and is_finite(r.get("loss"))]
        for stage, title in titles.items()
    }
    return curves_chart(curves, "epoch", "training loss", from_zero=True)


def search_chart(front: Sequence[Evaluated], result: RunResult) -> Chart:
    """The score that chose against multiply-accumulates: all considered, the Pareto front, the budget."""
    on_front = {item.architecture for item in front}
    others = [
        (order, item) for order, item in enumerate(result.considered, start=1) if item.architecture not in on_front
    ]
    last = max(len(result.considered), 1)
    marks = [
        _mark(item.architecture, item.scores, item.macs, result.score, f"evaluated as number {order}", order / last)
        for order, item in others
    ]
    best = [_mark(item.architecture, item.scores, item.macs, result.score, "on the front") for item in front]
    return Chart(
        [
            Series("evaluated, the later the darker", marks, look="all"),
            Series("Pareto front", best, line=True, look="front"),
            Series(
                "winner" if len(result.networks) == 1 else "winners", _retrained(result.networks, result), look="winner"
            ),
            Series("random", _retrained((result.random,), result), look="rival"),
        ],
        "multiply-accumulates for one image (millions)",
        _SCORE_LABELS[result.score],
        x_line=(result.max_macs / 1e6, "budget"),
    )


def spread_chart(result: RunResult) -> Chart:
    """Test accuracies: a dot for each training, and mean plus and minus a standard deviation where there are several.

    Networks that were selected have a row each, random rivals one together.
    """
    groups = {network.title: [network] for network in result.networks} | {"random": [result.random]}
    series = []
    for row, (title, networks) in enumerate(groups.items()):
        accuracies = [100 * network.test_accuracy for network in networks]
        marks = [
            Mark(accuracy, row, f"{network.title}: {accuracy:.2f} %", network.architecture.short())
            for network, accuracy in zip(networks, accuracies)
        ]
        look = "rival" if title == "random" else "winner"
        series.append(Series(title, marks, look=look, spread=_spread(accuracies)))
    return Chart(series, "test accuracy (%)", "", rows=list(groups))


def _spread(values: Sequence[float]) -> tuple[float, float] | None:
    """Mean minus and plus the standard deviation; None of a single value."""
    if len(values) < 2:
        return None
    mean, deviation = statistics.mean(values), statistics.stdev(values)
    return mean - deviation, mean + deviation


def ranking_chart(truth: Sequence[float], scores: Sequence[Scores], score: str, legend: str) -> Chart:
    """A score in the supernet against the accuracy in the table, a dot per architecture.

    Args:
        truth: accuracies in the table, in its unit.
        scores: in the supernet; one without numbers is left out.
        score: ``"loss"`` or ``"accuracy"``.
        legend: what is said about them.
    """
    marks = [Mark(x, _drawn(each, score)) for x, each in zip(truth, scores)]
    return Chart([Series(legend, marks, look="all")], "accuracy in the table", _SCORE_LABELS[score])


def _retrained(networks: Sequence[RetrainedNetwork], result: RunResult) -> list[Mark]:
    return [
        _mark(
            network.architecture,
            Scores(network.supernet_accuracy, network.supernet_loss),
            network.macs,
            result.score,
            f"{network.title}, test accuracy {network.test_accuracy:.2%}",
        )
        for network in networks
    ]


def _mark(architecture: Architecture, scores: Scores, macs: int, score: str, text: str, strength: float = 1.0) -> Mark:
    key = architecture.short()
    numbers = f"loss {scores.loss:.4f}, accuracy {scores.accuracy:.2%}, {macs / 1e6:,.2f} M"
    return Mark(
        macs / 1e6,
        _drawn(scores, score),
        f"{key}: {numbers}; {text}",
        key,
        _FAINTEST + (1 - _FAINTEST) * strength,
    )


def _drawn(scores: Scores, score: str) -> float:
    """A score as it is drawn; not a number, which charts leave out, where the network gives none."""
    if not scores.finite:
        return math.nan
    return scores.loss if score == "loss" else 100 * scores.accuracy
