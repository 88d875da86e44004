import pytest
import torch
from torch import nn

from kshot_ext.nas.training.weight_average import WeightAverage


def walk(average, parameters, steps, generator):
    """Changes some of the weights in each step; returns the values after each."""
    values = []
    for _ in range(steps):
        changed = [p for p in parameters if torch.rand((), generator=generator) < 0.4]
        average.before_change(changed)
        for parameter in changed:
            parameter.data += torch.randn(parameter.shape, generator=generator)
        average.count_step()
        values.append([p.detach().clone() for p in parameters])
    return values


@pytest.fixture
def parameters():
    return [nn.Parameter(torch.randn(3, 2)) for _ in range(4)]


def named(parameters):
    return {str(index): parameter for index, parameter in enumerate(parameters)}


@pytest.mark.parametrize("decay", [0.3, 0.99])
def test_equals_the_average_over_every_step(parameters, seeded, decay):
    average = WeightAverage(named(parameters), decay)
    expected = [p.detach().double() for p in parameters]
    for step, values in enumerate(walk(average, parameters, 50, seeded(0)), start=1):
        kept = min(decay, (1 + step) / (10 + step))
        expected = [kept * mean + (1 - kept) * value for mean, value in zip(expected, values)]
    last = [p.detach().clone() for p in parameters]
    with average.in_place():
        for parameter, mean in zip(parameters, expected):
            torch.testing.assert_close(parameter.detach().double(), mean, rtol=1e-5, atol=1e-5)
    assert all(torch.equal(parameter, value) for parameter, value in zip(parameters, last))


def test_reads_nothing_but_what_changes(parameters):
    average = WeightAverage(named(parameters), 0.9)
    average.count_step()
    before = [mean.clone() for mean in average.state_dict()["averages"].values()]
    for parameter in parameters:
        parameter.data += 1
    average.before_change(parameters[:1])
    after = list(average.state_dict()["averages"].values())
    assert [torch.equal(old, new) for old, new in zip(before, after)] == [False, True, True, True]


def test_state_goes_on_as_if_never_stopped(parameters, seeded):
    average, generator = WeightAverage(named(parameters), 0.9), seeded(0)
    walk(average, parameters, 5, generator)
    other_parameters = [nn.Parameter(p.detach().clone()) for p in parameters]
    other = WeightAverage(named(other_parameters), 0.9)
    other.load_state_dict(average.state_dict())
    other_generator = torch.Generator()
    other_generator.set_state(generator.get_state())
    walk(average, parameters, 5, generator)
    walk(other, other_parameters, 5, other_generator)
    average.swap()
    other.swap()
    assert all(torch.equal(one, two) for one, two in zip(parameters, other_parameters))
