import pytest
import torch

from kshot_ext.nas.training.simplex_objectives.ranking import PairwiseRanking


@pytest.mark.parametrize(
    ("losses", "costs", "factors"),
    [
        ([3.0, 2.0, 1.0], [1.0, 2.0, 3.0], [1, 1, 1]),  # in order
        ([1.0, 2.0, 3.0], [1.0, 2.0, 3.0], [0, 1, 2]),  # all wrong
        ([1.0, 3.0, 2.0], [3.0, 1.0, 2.0], [1, 1, 1]),
        ([1.0, 2.0], [1.0, 1.0], [1, 1]),  # costs that do not differ
        ([2.0, 2.0], [1.0, 2.0], [1, 1]),
        ([1.0, 1.5, 1.0, 0.5], [1.0, 2.0, 3.0, 4.0], [2 / 3, 4 / 3, 1, 1]),
    ],
)
def test_in_a_pair_out_of_order_the_costlier_path_counts_more(losses, costs, factors):
    found = PairwiseRanking().weigh(torch.tensor(losses).double(), torch.tensor(costs).double())
    torch.testing.assert_close(found, torch.tensor(factors).double())


def test_no_path_is_trained_to_be_worse(seeded):
    generator = seeded(0)
    for count in (2, 3, 8):
        for _ in range(20):
            losses, costs = torch.rand(2, count, generator=generator)
            factors = PairwiseRanking().weigh(losses, costs)
            assert 0 <= float(factors.min()) <= float(factors.max()) <= 2
            assert float(factors.sum()) == pytest.approx(count)
