"""The page about a search."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kshot_ext.nas.findings import Figure
from kshot_ext.nas.ranking.rank_correlation import RankCorrelation
from kshot_ext.nas.reporting import method_parts, page
from kshot_ext.nas.reporting.architectures import Catalogue
from kshot_ext.nas.reporting.page import Table
from kshot_ext.nas.runs.results import RetrainedNetwork, RunResult
from kshot_ext.nas.runs.spread import Comparison
from kshot_ext.nas.searchers.pareto import Evaluated
from kshot_ext.nas.spaces.counting import COST_TITLES
from kshot_ext.nas.task import CLASSIFICATION, Task

CORRELATION_TITLES = {
    "kendall_tau": "Kendall's tau",
    "kendall_tau_better_half": "Kendall's tau among the better half",
    "kendall_tau_better_quarter": "Kendall's tau among the better quarter",
    "kendall_tau_equal_cost": "Kendall's tau among pairs of equal cost",
    "spearman_rho": "Spearman's rho",
    "truth_of_favourite": "truth of its favourite",
    "regret": "regret of its favourite",
    "best_truth_of_ten": "best truth of its ten favourites",
    "mean_truth_of_ten": "mean truth of its ten favourites",
}
"""What the fields of `RankCorrelation` are called, in the order in which they are shown."""

LEAD = ("data", "space", "method", "shots", "seed")
"""The facts that stand below the title of a page."""
_ABOUT_AS_MUCH = 0.05
"""Largest difference of costs, as a share of the winner's, that counts for none."""
_TRUTHS = ("truth_of_favourite", "regret", "best_truth_of_ten", "mean_truth_of_ten")


@dataclass(frozen=True)
class ReportFigures:
    """What the page of a search draws.

    Args:
        spread: test accuracies of the winner and its rivals.
        search: what was considered; None if nothing was.
        others: the rest, in order.
    """

    spread: Figure
    search: Figure | None
    others: Sequence[Figure]


def render_report(
    title: str,
    facts: Mapping[str, str],
    result: RunResult,
    figures: ReportFigures,
    architectures: Catalogue,
    choices: Sequence[str],
    settings: Mapping[str, Any],
    provenance: Mapping[str, str],
    correlation: RankCorrelation | None = None,
) -> str:
    """Return the page; all text is escaped, and figures are part of it.

    Args:
        title: heading.
        facts: what was run, one row each.
        result: what was found.
        figures: what is drawn.
        architectures: those that the page shows one by one.
        choices: what their keys mean.
        settings: settings by dotted name.
        provenance: what it takes to repeat the run.
        correlation: how the search's ranking compares with a table of results; None without one.
    """
    return page.render(
        "search.html",
        title=title,
        lead="; ".join(facts[name] for name in LEAD),
        banner=method_parts.banner(result.findings),
        tiles=_tiles(result),
        compared=_compared(result),
        compared_note=_compared_note(result),
        spread=figures.spread,
        search=figures.search,
        figures=figures.others,
        catalogue=architectures,
        choices=choices,
        front=_front(result.front, result.task) if result.front else None,
        correlation=None if correlation is None else correlation_facts(correlation),
        findings=result.findings,
        facts=facts,
        settings=settings,
        seconds=seconds_by_stage(result.seconds),
        provenance=provenance,
    )


def correlation_facts(correlation: RankCorrelation) -> dict[str, str]:
    """Return the numbers of a comparison with a table of results, for people; truths are in the table's unit."""
    return {
        title: f"{getattr(correlation, name):.3f}" if name in _TRUTHS else shown_correlation(getattr(correlation, name))
        for name, title in CORRELATION_TITLES.items()
    }


def shown_correlation(value: float | None) -> str:
    """Return a correlation for people."""
    return "undefined" if value is None else f"{value:.3f}"


def seconds_by_stage(seconds: Mapping[str, float]) -> Table:
    """Return the times of the stages and of all of them for people."""
    total = sum(seconds.values())
    rows = [(stage, f"{value:,.1f}", f"{value / total:.0%}" if total else "") for stage, value in seconds.items()]
    return Table(("stage", "seconds", "share"), [*rows, ("all", f"{total:,.1f}", "")])


def _tiles(result: RunResult) -> dict[str, str]:
    winner, ensemble, task = result.winner, result.ensemble_accuracy, result.task
    return {
        f"test {task.metric_name} of the winner": task.shown(winner.test_accuracy),
        **({} if ensemble is None else {f"test {task.metric_name} of the ensemble": task.shown(ensemble)}),
        "multiply-accumulates": f"{winner.macs / 1e6:,.2f} M",
        "parameters": f"{winner.parameters:,}",
        "seconds in all": f"{sum(result.seconds.values()):,.0f}",
        **method_parts.tiles(result.findings),
    }


def _compared(result: RunResult) -> Table:
    rows = [
        (
            network.title,
            result.task.shown(network.test_accuracy),
            f"{network.supernet_loss:.4f}",
            result.task.shown(network.supernet_accuracy),
            *_costs(network),
        )
        for network in result.compared
    ]
    heads = ("network", f"test {result.task.metric_name}", *_score_heads(result.task), *_cost_heads(result.networks))
    return Table(heads, rows, keys=[network.architecture.short() for network in result.compared])


def _score_heads(task: Task) -> tuple[str, str]:
    return f"validation {task.loss_name}", f"validation {task.metric_name}"


def _compared_note(result: RunResult) -> str:
    note = (
        "All were trained from scratch in the same way and tested on images that no stage had seen. "
        + (
            ""
            if result.comparison is None
            else comparison_sentence(result.comparison, result.test_images, result.task, costs_of_rivals(result)) + " "
        )
        + f"Validation {result.task.loss_name} and {result.task.metric_name} are with the supernet's weights. "
        + (
            f"Networks are ranked by their {result.task.score_name(result.score)} in the supernet. "
            if result.considered
            else ""
        )
        + f"The budget was {result.max_macs:,} multiply-accumulates for one image."
    )
    if result.max_bit_operations is not None:
        note += f" That of bit operations was {result.max_bit_operations:,}."
    return note


def costs_of_rivals(result: RunResult) -> str:
    """Return what the rivals cost beside the winner, in words: a space may have too few networks of its cost."""
    winner = result.networks[0]
    cost = "bit_operations" if winner.bit_operations else "macs"
    shares = [getattr(rival, cost) / getattr(winner, cost) for rival in result.rivals if getattr(winner, cost)]
    if all(abs(share - 1) <= _ABOUT_AS_MUCH for share in shares):
        return "of its cost"
    ends = dict.fromkeys(f"{share:.0%}" for share in (min(shares), max(shares)))
    return f"of {' to '.join(ends)} of its cost, as the space has too few nearer ones,"


def comparison_sentence(
    comparison: Comparison, test_images: int, task: Task = CLASSIFICATION, costs: str = "of its cost"
) -> str:
    """Return how the winner and its rivals compare by the task's metric, for people.

    Args:
        comparison: their means and deviations.
        test_images: that they were tested on.
        task: whose metric it is.
        costs: see `costs_of_rivals`.
    """
    if not task.in_percent:
        return _comparison_in_units(comparison, test_images, task, costs)
    winner, rivals, error = comparison.winner, comparison.rivals, comparison.standard_error
    sentence = (
        f"The winner had {winner} in {_number(winner.count, 'training')}, "
        f"{_number(rivals.count, 'random network')} {costs} {rivals} (mean ± standard deviation in points, "
        f"{test_images:,} test images): {100 * abs(comparison.difference):.2f} points "
        + ("more" if comparison.difference >= 0 else "less")
    )
    if error is None:
        return f"{sentence}, of which a single training on one side tells little."
    by_images = 100 * _error_by_images(winner.mean, test_images)
    return (
        f"{sentence}, with a standard error of {100 * error:.2f} over trainings; "
        f"that of an accuracy on {test_images:,} images is {by_images:.2f} besides."
    )


def _error_by_images(accuracy: float, count: int) -> float:
    """The standard error of an accuracy by the choice of images, with two right and two wrong ones added.

    Those keep it above 0 where all were right: Agresti and Coull, The American Statistician 52, 1998.
    """
    share = (accuracy * count + 2) / (count + 4)
    return math.sqrt(share * (1 - share) / (count + 4))


def _comparison_in_units(comparison: Comparison, test_images: int, task: Task, costs: str) -> str:
    """The same of a metric that has a unit of its own."""
    winner, rivals, error = comparison.winner, comparison.rivals, comparison.standard_error
    better = (comparison.difference >= 0) == task.higher_is_better
    return (
        f"The winner had a {task.metric_name} of {task.shown(winner.mean)} in {_number(winner.count, 'training')}, "
        f"{_number(rivals.count, 'random network')} {costs} {task.shown(rivals.mean)} (means, {test_images:,} test "
        f"images): {task.shown(abs(comparison.difference))} {'better' if better else 'worse'}"
        + ("." if error is None else f", with a standard error of {task.shown(error)} over trainings.")
    )


def _number(count: int, name: str) -> str:
    return f"{count} {name}" if count == 1 else f"{count} {name}s"


def _front(front: Sequence[Evaluated], task: Task) -> Table:
    rows = [
        (item.architecture.short(), f"{item.scores.loss:.4f}", task.shown(item.scores.accuracy), *_costs(item))
        for item in front
    ]
    heads = ("architecture", *_score_heads(task), *_cost_heads(front))
    return Table(heads, rows, keys=[item.architecture.short() for item in front])


def _cost_heads(networks: Sequence[RetrainedNetwork | Evaluated]) -> list[str]:
    names = ["macs", "parameters", *(["bit_operations"] if any(one.bit_operations for one in networks) else [])]
    return [COST_TITLES[name] for name in names]


def _costs(network: RetrainedNetwork | Evaluated) -> list[str]:
    """The costs of a network, bit operations only if it has bits, as all of its space then have."""
    costs = network.macs, network.parameters, network.bit_operations
    return [f"{cost:,}" for cost in (costs if network.bit_operations else costs[:2])]
