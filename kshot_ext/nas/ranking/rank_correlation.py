"""How well one scoring of architectures ranks them as another does, and what it would choose."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from kshot_ext.nas.extras import require

_FAVOURITES = 10


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
    """

    kendall_tau: float | None
    spearman_rho: float | None
    regret: float
    kendall_tau_better_half: float | None
    kendall_tau_better_quarter: float | None
    truth_of_favourite: float
    best_truth_of_ten: float
    mean_truth_of_ten: float


def rank_correlation(truth: Sequence[float], scores: Sequence[float]) -> RankCorrelation:
    """Compare the ranking by scores with that by the truth.

    Args:
        truth: accuracy of each architecture, trained on its own.
        scores: of each in the supernet, the higher the better.

    Raises:
        ValueError: if there are fewer than two architectures, or the two differ in number.

    Example:
        >>> found = rank_correlation([70.0, 80.0, 90.0], [0.1, 0.3, 0.2])
        >>> found.kendall_tau, found.regret, found.truth_of_favourite, found.best_truth_of_ten
        (0.333..., 10.0, 80.0, 90.0)
    """
    if len(truth) != len(scores) or len(truth) < 2:
        raise ValueError(f"expected two or more architectures with a score each, got {len(truth)} and {len(scores)}")
    favourite, _ = _truth_of_favourites(truth, scores, 1)
    best, mean = _truth_of_favourites(truth, scores, _FAVOURITES)
    return RankCorrelation(
        kendall_tau=_correlation("kendalltau", truth, scores),
        spearman_rho=_correlation("spearmanr", truth, scores),
        regret=max(truth) - favourite,
        kendall_tau_better_half=_correlation("kendalltau", *_better(truth, scores, 2)),
        kendall_tau_better_quarter=_correlation("kendalltau", *_better(truth, scores, 4)),
        truth_of_favourite=favourite,
        best_truth_of_ten=best,
        mean_truth_of_ten=mean,
    )


def _correlation(name: str, truth: Sequence[float], scores: Sequence[float]) -> float | None:
    """A correlation of scipy's; None where it is not defined."""
    if len(set(truth)) == 1 or len(set(scores)) == 1:
        return None
    return float(getattr(require("scipy.stats"), name)(truth, scores).statistic)


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
