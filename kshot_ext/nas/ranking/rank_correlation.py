"""How well one scoring of architectures ranks them as another does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kshot_ext.nas.extras import require


@dataclass(frozen=True)
class RankCorrelation:
    """A ranking compared with the truth.

    Args:
        kendall_tau: Kendall's tau-b, -1 to 1; None where all of one side are equal.
        spearman_rho: Spearman's rho, likewise.
        regret: how much the truth of the best-ranked architecture is below the best truth, in the truth's unit; of
            equals in the ranking, the mean.
    """

    kendall_tau: float | None
    spearman_rho: float | None
    regret: float


def rank_correlation(truth: Sequence[float], scores: Sequence[float]) -> RankCorrelation:
    """Compare the ranking by scores with that by the truth.

    Args:
        truth: accuracy of each architecture, trained on its own.
        scores: accuracy of each in the supernet.

    Raises:
        ValueError: if there are fewer than two architectures, or the two differ in number.

    Example:
        >>> rank_correlation([70.0, 80.0, 90.0], [0.1, 0.3, 0.2])
        RankCorrelation(kendall_tau=0.333..., spearman_rho=0.5, regret=10.0)
    """
    if len(truth) != len(scores) or len(truth) < 2:
        raise ValueError(f"expected two or more architectures with a score each, got {len(truth)} and {len(scores)}")
    best = [value for value, score in zip(truth, scores) if score == max(scores)]
    regret = max(truth) - sum(best) / len(best)
    if len(set(truth)) == 1 or len(set(scores)) == 1:
        return RankCorrelation(None, None, regret)
    stats = require("scipy.stats")
    tau, rho = stats.kendalltau(truth, scores).statistic, stats.spearmanr(truth, scores).statistic
    return RankCorrelation(float(tau), float(rho), regret)
