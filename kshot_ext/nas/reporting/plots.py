"""The charts of a run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from kshot_ext.nas.charts import Chart, Mark, Series, curves_chart, is_finite
from kshot_ext.nas.networks.evaluation import Scores
from kshot_ext.nas.runs.results import RetrainedNetwork, RunResult
from kshot_ext.nas.runs.spread import Spread
from kshot_ext.nas.searchers.pareto import Evaluated
from kshot_ext.nas.task import CLASSIFICATION, Task

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


def search_chart(result: RunResult) -> Chart:
    """The score that chose against multiply-accumulates: all considered, the Pareto front, the budget."""
    on_front = {item.architecture for item in result.front}
    others = [
        (order, item) for order, item in enumerate(result.considered, start=1) if item.architecture not in on_front
    ]
    last = max(len(result.considered), 1)
    marks = [_mark(item, result, f"evaluated as number {order}", order / last) for order, item in others]
    best = [_mark(item, result, "on the front") for item in result.front]
    return Chart(
        [
            Series("evaluated, the later the darker", marks, look="all"),
            Series("Pareto front", best, line=True, look="front"),
            Series(
                "winner" if len(result.networks) == 1 else "winners", _retrained(result.networks, result), look="winner"
            ),
            Series("random", _retrained(result.rivals, result), look="rival"),
        ],
        "multiply-accumulates for one image (millions)",
        _score_label(result.score, result.task),
        x_line=(result.max_macs / 1e6, "budget"),
    )


def spread_chart(result: RunResult) -> Chart:
    """Test accuracies: a dot for each training, and mean plus and minus a standard deviation where there are several.

    Networks that were selected have a row each, random rivals one together.
    """
    task = result.task
    winners = [
        _accuracies(network.title, row, [network], "winner", task) for row, network in enumerate(result.networks)
    ]
    rivals = [_accuracies("random", len(winners), result.rivals, "rival", task)] if result.rivals else []
    series = [*winners, *rivals]
    return Chart(series, f"test {_metric_label(task)}", "", rows=[one.name for one in series])


def _accuracies(name: str, row: int, networks: Sequence[RetrainedNetwork], look: str, task: Task) -> Series:
    marks = [
        Mark(_metric(accuracy, task), row, f"{network.title}: {task.shown(accuracy)}", network.architecture.short())
        for network in networks
        for accuracy in network.test_accuracies
    ]
    spread = Spread.of([mark.x for mark in marks])
    ends = None if spread.deviation is None else (spread.mean - spread.deviation, spread.mean + spread.deviation)
    return Series(name, marks, look=look, spread=ends)


def ranking_chart(truth: Sequence[float], scores: Sequence[Scores], score: str, legend: str) -> Chart:
    """A score in the supernet against the accuracy in the table, a dot per architecture.

    Args:
        truth: accuracies in the table, in its unit.
        scores: in the supernet; one without numbers is left out.
        score: ``"loss"`` or ``"accuracy"``.
        legend: what is said about them.
    """
    marks = [Mark(x, _drawn(each, score, CLASSIFICATION)) for x, each in zip(truth, scores)]
    return Chart([Series(legend, marks, look="all")], "accuracy in the table", _score_label(score, CLASSIFICATION))


def _retrained(networks: Sequence[RetrainedNetwork], result: RunResult) -> list[Mark]:
    task = result.task
    return [
        _mark(network, result, f"{network.title}, test {task.metric_name} {task.shown(network.test_accuracy)}")
        for network in networks
    ]


def _mark(one: Evaluated | RetrainedNetwork, result: RunResult, text: str, strength: float = 1.0) -> Mark:
    key, task = one.architecture.short(), result.task
    scores = one.scores if isinstance(one, Evaluated) else Scores(one.supernet_accuracy, one.supernet_loss)
    numbers = f"loss {scores.loss:.4f}, {task.metric_name} {task.shown(scores.accuracy)}, {one.macs / 1e6:,.2f} M"
    return Mark(
        one.macs / 1e6,
        _drawn(scores, result.score, task),
        f"{key}: {numbers}; {text}",
        key,
        _FAINTEST + (1 - _FAINTEST) * strength,
    )


def _score_label(score: str, task: Task) -> str:
    return f"validation {task.loss_name if score == 'loss' else _metric_label(task)} in the supernet"


def _metric_label(task: Task) -> str:
    return f"{task.metric_name} (%)" if task.in_percent else task.metric_name


def _drawn(scores: Scores, score: str, task: Task) -> float:
    """A score as it is drawn; not a number, which charts leave out, where the network gives none."""
    if not scores.finite:
        return math.nan
    return scores.loss if score == "loss" else _metric(scores.accuracy, task)


def _metric(value: float, task: Task) -> float:
    return 100 * value if task.in_percent else value
