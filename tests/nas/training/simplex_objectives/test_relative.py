import pytest
import torch

from kshot_ext.nas.training.simplex_objectives.relative import RelativeLoss


def drawn_paths(generator, steps, count=4):
    """Costs and losses of the paths of many steps: losses fall by 0.3 for each unit of cost, and by 0.1 a step."""
    for step in range(steps):
        costs = torch.rand(count, generator=generator).double() * 2
        yield costs, 3 - 0.1 * step - 0.3 * costs + 0.05 * torch.randn(count, generator=generator).double()


def test_paths_better_than_their_cost_predicts_weigh_more(seeded):
    objective = RelativeLoss()
    for costs, losses in drawn_paths(seeded(0), 400):
        objective.weigh(losses, costs)
    costs = torch.tensor([0.0, 1.0, 2.0]).double()
    level = torch.tensor([2.0, 1.7, 1.4]).double()
    torch.testing.assert_close(objective.weigh(level, costs), torch.ones(3).double(), rtol=0, atol=0.15)
    gain = torch.tensor([0.0, 0.05, 0.0])
    factors = objective.weigh(level - gain, costs)  # by one standard deviation
    assert float(factors.sum()) == pytest.approx(3)
    assert float(factors[1] / factors[0]) == pytest.approx(2.718, rel=0.15)
    assert float(factors[0] / factors[2]) == pytest.approx(1, abs=0.15)


def test_the_line_is_that_of_least_squares_with_an_intercept_for_each_step(seeded):
    """Older steps count 0.99 times as much as the next."""
    objective, rows, values, weights = RelativeLoss(), [], [], []
    steps = list(drawn_paths(seeded(1), 5))
    for number, (costs, losses) in enumerate(steps):
        factors = objective.weigh(losses, costs)
        intercepts = torch.zeros(4, 5).double()
        intercepts[:, number] = 1
        rows.append(torch.cat([costs[:, None], intercepts], dim=1))
        values.append(losses)
        weights.append(torch.full((4,), 0.99 ** (4 - number)).double())
    rows, values, weights = torch.cat(rows), torch.cat(values), torch.cat(weights)
    solution = torch.linalg.lstsq(weights.sqrt()[:, None] * rows, (weights.sqrt() * values)[:, None]).solution[:, 0]
    left = values - rows @ solution
    deviation = ((weights * left.square()).sum() / (weights.sum() * 3 / 4 - 1)).sqrt()
    torch.testing.assert_close(factors, 4 * (-left[-4:] / deviation).softmax(dim=0))


@pytest.mark.parametrize(
    ("losses", "costs"),
    [
        ([2.0, 1.0], [0.0, 1.0]),  # a line goes through any two points
        ([2.0, 2.0, 2.0], [0.0, 1.0, 2.0]),
        ([3.0, 2.0, 1.0], [0.0, 1.0, 2.0]),
        ([1.5], [1.0]),
    ],
)
def test_what_tells_nothing_leaves_the_mean(losses, costs):
    factors = RelativeLoss().weigh(torch.tensor(losses).double(), torch.tensor(costs).double())
    assert factors.tolist() == [1.0] * len(losses)


def test_paths_of_one_cost_are_compared_by_their_losses():
    factors = RelativeLoss().weigh(torch.tensor([1.0, 2.0, 3.0]).double(), torch.ones(3).double())
    torch.testing.assert_close(factors, 3 * torch.tensor([0.0, -1.0, -2.0]).double().softmax(dim=0))
