"""The charts of a run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from kshot_ext.nas.charts import Chart, Mark, Series, curves_chart, is_finite
from kshot_ext.nas.networks.evaluation import Scores
from kshot_ext.nas.runs.results import RetrainedNetwork, RunResult, Spread
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


def search_chart(result: RunResult) -> Chart:
    """The score that chose against multiply-accumulates: all considered, the Pareto front, the budget."""
    on_front = {item.architecture for item in result.front}
    others = [
        (order, item) for order, item in enumerate(result.considered, start=1) if item.architecture not in on_front
    ]
    last = max(len(result.considered), 1)
    marks = [
        _mark(item.architecture, item.scores, item.macs, result.score, f"evaluated as number {order}", order / last)
        for order, item in others
    ]
    best = [_mark(item.architecture, item.scores, item.macs, result.score, "on the front") for item in result.front]
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
        _SCORE_LABELS[result.score],
        x_line=(result.max_macs / 1e6, "budget"),
    )


def spread_chart(result: RunResult) -> Chart:
    """Test accuracies: a dot for each training, and mean plus and minus a standard deviation where there are several.

    Networks that were selected have a row each, random rivals one together.
    """
    winners = [_accuracies(network.title, row, [network], "winner") for row, network in enumerate(result.networks)]
    rivals = [_accuracies("random", len(winners), result.rivals, "rival")] if result.rivals else []
    series = [*winners, *rivals]
    return Chart(series, "test accuracy (%)", "", rows=[one.name for one in series])


def _accuracies(name: str, row: int, networks: Sequence[RetrainedNetwork], look: str) -> Series:
    marks = [
        Mark(100 * accuracy, row, f"{network.title}: {accuracy:.2%}", network.architecture.short())
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
