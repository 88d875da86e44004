from __future__ import annotations

import math
from itertools import combinations

import pytest
import torch

from kshot_ext.nas.ranking.rank_correlation import RankCorrelation, rank_correlation


def test_equals_the_definition() -> None:
    """Kendall's tau-b by counting pairs, ties and all."""
    generator = torch.Generator().manual_seed(0)
    truth, scores = torch.randint(12, (2, 40), generator=generator).tolist()
    pairs = list(combinations(range(40), 2))
    signs = [(_sign(truth[i] - truth[j]), _sign(scores[i] - scores[j])) for i, j in pairs]
    untied = [sum(sign[side] != 0 for sign in signs) for side in (0, 1)]
    tau = sum(first * second for first, second in signs) / math.sqrt(math.prod(untied))
    assert rank_correlation(truth, scores).kendall_tau == pytest.approx(tau)


def _sign(value: int) -> int:
    return (value > 0) - (value < 0)


def test_a_perfect_and_a_reversed_ranking() -> None:
    assert rank_correlation([1, 2, 3], [0.1, 0.2, 0.9]) == RankCorrelation(1, 1, 0)
    assert rank_correlation([1, 2, 3], [0.9, 0.2, 0.1]) == RankCorrelation(-1, -1, 2)


def test_the_regret_of_equals_is_their_mean() -> None:
    assert rank_correlation([10, 20, 40], [0.5, 0.5, 0.1]).regret == 25


@pytest.mark.parametrize(("truth", "scores"), [([1, 2], [0.5, 0.5]), ([1, 1], [0.5, 0.6])])
def test_no_correlation_where_all_are_equal(truth: list[float], scores: list[float]) -> None:
    result = rank_correlation(truth, scores)
    assert result.kendall_tau is None
    assert result.spearman_rho is None


@pytest.mark.parametrize(("truth", "scores"), [([1], [1]), ([1, 2], [1])])
def test_too_few_are_refused(truth: list[float], scores: list[float]) -> None:
    with pytest.raises(ValueError, match="expected two or more architectures with a score each"):
        rank_correlation(truth, scores)
