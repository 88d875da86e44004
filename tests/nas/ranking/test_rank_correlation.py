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
    assert rank_correlation([1, 2, 3], [0.1, 0.2, 0.9]) == RankCorrelation(1, 1, 0, 1, None, 3, 3, 2)
    assert rank_correlation([1, 2, 3], [0.9, 0.2, 0.1]) == RankCorrelation(-1, -1, 2, -1, None, 1, 3, 2)


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


def _numbers(seed: int, count: int, values: int) -> tuple[list[int], list[int]]:
    generator = torch.Generator().manual_seed(seed)
    truth, scores = torch.randint(values, (2, count), generator=generator).tolist()
    return truth, scores


@pytest.mark.parametrize(("part", "name"), [(2, "half"), (4, "quarter")])
def test_the_better_ones_are_those_of_the_highest_truth(part: int, name: str) -> None:
    truth, scores = _numbers(1, 41, 1000)
    better = sorted(range(41), key=lambda index: -truth[index])[: math.ceil(41 / part)]
    among = rank_correlation([truth[index] for index in better], [scores[index] for index in better])
    found = getattr(rank_correlation(truth, scores), f"kendall_tau_better_{name}")
    assert found == pytest.approx(among.kendall_tau)
    assert found != pytest.approx(rank_correlation(truth, scores).kendall_tau)


def test_those_that_equal_the_last_of_the_better_ones_are_among_them() -> None:
    truth, scores = [1, 2, 3, 3, 3, 0], [0, 5, 1, 2, 3, 0]
    found = rank_correlation(truth, scores)
    assert found.kendall_tau_better_half is None  # all three have the same truth
    assert rank_correlation([4, 3, 3, 3, 0, 0, 0, 0], [1, 2, 3, 4, 0, 0, 0, 0]).kendall_tau_better_quarter == (
        rank_correlation([4, 3, 3, 3], [1, 2, 3, 4]).kendall_tau
    )


@pytest.mark.parametrize("values", [3, 8, 10_000])
def test_favourites_in_random_order_of_equals(values: int) -> None:
    """The means over all orders of equals, by trying many of them."""
    truth, scores = _numbers(values, 30, values)
    generator = torch.Generator().manual_seed(0)
    favourites = []
    for _ in range(4000):
        order = torch.randperm(30, generator=generator).tolist()
        ranked = sorted(order, key=lambda index: -scores[index])  # which keeps the order of equals
        favourites.append([truth[index] for index in ranked[:10]])
    found = rank_correlation(truth, scores)
    count = len(favourites)
    spread = 2 * max(truth) / math.sqrt(count) if len(set(scores)) < 30 else 1e-9
    assert found.truth_of_favourite == pytest.approx(sum(ten[0] for ten in favourites) / count, abs=spread)
    assert found.best_truth_of_ten == pytest.approx(sum(map(max, favourites)) / count, abs=spread)
    assert found.mean_truth_of_ten == pytest.approx(sum(map(sum, favourites)) / 10 / count, abs=spread)
    assert found.regret == pytest.approx(max(truth) - found.truth_of_favourite)


def test_equals_are_all_choices_of_them() -> None:
    truth, scores = [9, 1, 2, 3, 4, 5, 6, 7, 8, 10, 0], [5, 4, 4, 4, 4, 4, 4, 4, 4, 1, 1]
    found = rank_correlation(truth, scores)
    assert found.truth_of_favourite == 9
    assert found.best_truth_of_ten == (10 + 9) / 2
    assert found.mean_truth_of_ten == ((45 + 10) / 10 + 45 / 10) / 2


@pytest.mark.parametrize("values", [3, 40])
def test_pairs_of_equal_cost_by_counting(values: int) -> None:
    """Costs differ by 1 % at most; ties of truth or score are no pairs."""
    truth, scores = _numbers(values, 60, values)
    costs = [100 + number / 2 for number in _numbers(7, 60, 9)[0]]  # 100 to 104: neighbours are equal, others not
    agreement = pairs = 0
    for i, j in combinations(range(60), 2):
        if abs(costs[i] - costs[j]) <= 0.01 * max(costs[i], costs[j]):
            sign = _sign(truth[i] - truth[j]) * _sign(scores[i] - scores[j])
            agreement, pairs = agreement + sign, pairs + abs(sign)
    found = rank_correlation(truth, scores, costs).kendall_tau_equal_cost
    assert found == pytest.approx(agreement / pairs)
    assert found != pytest.approx(rank_correlation(truth, scores).kendall_tau, abs=1e-3)


def test_a_ranking_by_cost_knows_nothing_at_equal_cost() -> None:
    """Its tau over all is 1, and no pair of equal cost differs in score."""
    found = rank_correlation([70.0, 71.0, 80.0, 81.0], [1.0, 1.0, 2.0, 2.0], [1e6, 1e6, 2e6, 2e6])
    assert found.kendall_tau > 0.8
    assert found.kendall_tau_equal_cost is None
    right_at_equal_cost_alone = rank_correlation([70.0, 71.0, 80.0, 81.0], [3.0, 4.0, 1.0, 2.0], [1e6, 1e6, 2e6, 2e6])
    assert right_at_equal_cost_alone.kendall_tau < 0
    assert right_at_equal_cost_alone.kendall_tau_equal_cost == 1


def test_a_cost_for_each() -> None:
    with pytest.raises(ValueError, match="expected a cost for each of 2 architectures, got 1"):
        rank_correlation([1, 2], [1, 2], [1])


def test_of_fewer_than_ten_all_are_favourites() -> None:
    found = rank_correlation([1, 2, 6], [0.3, 0.2, 0.1])
    assert (found.truth_of_favourite, found.best_truth_of_ten, found.mean_truth_of_ten) == (1, 6, 3)


def test_networks_without_numbers_are_last() -> None:
    found = rank_correlation([1, 2, 3], [-0.5, -0.7, -math.inf])
    assert (found.kendall_tau, found.truth_of_favourite) == (-1, 1)
    found = rank_correlation([1, 2, 3, 4], [-0.5, -0.7, -math.inf, -math.inf], [5, 5, 5, 5])
    assert found.kendall_tau_equal_cost == -1
