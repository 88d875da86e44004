"""How well one scoring of architectures ranks them as another does, and what it would choose."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kshot_ext.nas.extras import require

_FAVOURITES = 10
_EQUAL = 0.01
"""Share of the larger cost by which two costs may differ and still count as equal."""


@dataclass(frozen=True)
class RankCorrelation:
    """A ranking compared with the truth.

    A correlation is None where all of one side are equal. Of architectures with equal scores none comes first: what
    depends on which of them are taken is the mean over all choices.

    Args:
        kendall_tau: Kendall's tau-b, -1 to 1.
        spearman_rho: Spearman's rho, likewise.
        regret: how much the truth of the best-ranked architecture is below the best truth, in the truth's unit.
        kendall_tau_better_half, kendall_tau_better_quarter: Kendall's tau-b among the architectures of the highest
            truth, at least so many of all, with those that equal the last one.
        truth_of_favourite: truth of the best-ranked architecture.
        best_truth_of_ten, mean_truth_of_ten: of the ten best-ranked ones; of all, if there are fewer.
        kendall_tau_equal_cost: Kendall's tau over pairs of equal cost alone, whose costs differ by 1 % at most: what
            the scores know beyond the costs. None if no such pair differs in truth and score, or costs are not known.
    """

    kendall_tau: float | None
    spearman_rho: float | None
    regret: float
    kendall_tau_better_half: float | None
    kendall_tau_better_quarter: float | None
    truth_of_favourite: float
    best_truth_of_ten: float
    mean_truth_of_ten: float
    kendall_tau_equal_cost: float | None = None


def rank_correlation(
    truth: Sequence[float], scores: Sequence[float], costs: Sequence[float] | None = None
) -> RankCorrelation:
    """Compare the ranking by scores with that by the truth.

    Args:
        truth: accuracy of each architecture, trained on its own.
        scores: of each in the supernet, the higher the better.
        costs: of each, such as its multiply-accumulates; None if they are not known.

    Raises:
        ValueError: if there are fewer than two architectures, or the two differ in number.

    Example:
        >>> found = rank_correlation([70.0, 80.0, 90.0], [0.1, 0.3, 0.2])
        >>> found.kendall_tau, found.regret, found.truth_of_favourite, found.best_truth_of_ten
        (0.333..., 10.0, 80.0, 90.0)
    """
    if len(truth) != len(scores) or len(truth) < 2:
        raise ValueError(f"expected two or more architectures with a score each, got {len(truth)} and {len(scores)}")
    if costs is not None and len(costs) != len(truth):
        raise ValueError(f"expected a cost for each of {len(truth)} architectures, got {len(costs)}")
    favourite, _ = _truth_of_favourites(truth, scores, 1)
    best, mean = _truth_of_favourites(truth, scores, _FAVOURITES)
    return RankCorrelation(
        kendall_tau=kendall_tau(truth, scores),
        spearman_rho=_correlation("spearmanr", truth, scores),
        regret=max(truth) - favourite,
        kendall_tau_better_half=kendall_tau(*_better(truth, scores, 2)),
        kendall_tau_better_quarter=kendall_tau(*_better(truth, scores, 4)),
        truth_of_favourite=favourite,
        best_truth_of_ten=best,
        mean_truth_of_ten=mean,
        kendall_tau_equal_cost=None if costs is None else _tau_at_equal_cost(truth, scores, costs),
    )


def kendall_tau(truth: Sequence[float], values: Sequence[float]) -> float | None:
    """Kendall's tau-b, -1 to 1; None where all of one side are equal.

    Example:
        >>> kendall_tau([70.0, 80.0, 90.0], [0.1, 0.3, 0.2])
        0.333...
    """
    return _correlation("kendalltau", truth, values)


def _correlation(name: str, truth: Sequence[float], scores: Sequence[float]) -> float | None:
    """A correlation of scipy's; None where it is not defined."""
    if len(set(truth)) == 1 or len(set(scores)) == 1:
        return None
    return float(getattr(require("scipy.stats"), name)(truth, scores).statistic)


def _tau_at_equal_cost(truth: Sequence[float], scores: Sequence[float], costs: Sequence[float]) -> float | None:
    """Of pairs of equal cost that differ in truth and score: the share in the right order less that in the wrong."""
    order = np.argsort(costs, kind="stable")
    cost, *sides = (np.asarray(values, dtype=float)[order] for values in (costs, truth, scores))
    ends = np.searchsorted(cost, cost / (1 - _EQUAL), side="right")
    agreement = pairs = 0
    for first, end in enumerate(ends):  # a row of pairs at a time: all at once would not fit for a whole table
        above = slice(first + 1, end)
        by_truth, by_score = (1 * (side[above] > side[first]) - (side[above] < side[first]) for side in sides)
        agreement += int(by_truth @ by_score)
        pairs += int(abs(by_truth) @ abs(by_score))
    return agreement / pairs if pairs else None


def _better(truth: Sequence[float], scores: Sequence[float], part: int) -> tuple[Sequence[float], Sequence[float]]:
    """Truth and scores of one in ``part`` architectures, those of the highest truth."""
    least = sorted(truth, reverse=True)[-(-len(truth) // part) - 1]
    truth, scores = zip(*((value, score) for value, score in zip(truth, scores) if value >= least))
    return truth, scores


def _truth_of_favourites(truth: Sequence[float], scores: Sequence[float], count: int) -> tuple[float, float]:
    """The expected best and mean truth of the best-ranked, where equals in the ranking come in random order."""
    count = min(count, len(truth))
    last = sorted(scores, reverse=True)[count - 1]
    above = [value for value, score in zip(truth, scores) if score > last]
    equal = sorted((value for value, score in zip(truth, scores) if score == last), reverse=True)
    drawn = count - len(above)
    # The best of those drawn is the i-th of the equals in C(n - 1 - i, drawn - 1) of the C(n, drawn) draws.
    choices = [math.comb(len(equal) - 1 - index, drawn - 1) for index in range(len(equal))]
    least = max(above, default=-math.inf)
    best = sum(ways * max(least, value) for ways, value in zip(choices, equal)) / sum(choices)
    return best, (sum(above) + drawn * sum(equal) / len(equal)) / count
