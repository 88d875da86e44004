"""The distribution over architectures against products and sums by hand."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from kshot_ext.nas.methods.parts.choice_distribution import ChoiceDistribution
from kshot_ext.nas.spaces import create_space
from kshot_ext.nas.spaces.architecture import Architecture


def made(name="nas-bench-macro", widths=None):
    space = create_space(name, image_shape=(1, 8, 8), num_classes=3, channels=2, widths=widths)
    distribution = ChoiceDistribution(space)
    generator = torch.Generator().manual_seed(0)
    for parameter in distribution.parameters():
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator))
    return space, distribution


def test_factorised_it_is_the_product_of_operations_and_widths():
    space, distribution = made(widths=(0.5, 1.0))
    logits = distribution.factors.detach().view(8, -1)
    seen = {}
    for layer in range(8):  # values are named in the order in which choices bring them
        names = ["operation 0", "width 0", "width 1", "operation 1", "operation 2"]
        seen[layer] = dict(zip(names, logits[layer]))
    for path in (space.sample(torch.Generator().manual_seed(seed)) for seed in range(5)):
        expected = 0.0
        for layer, values in seen.items():
            for kind, count, chosen in (("operation", 3, path.operations), ("width", 2, path.widths)):
                part = torch.stack([values[f"{kind} {index}"] for index in range(count)]).log_softmax(dim=0)
                expected += part[chosen[layer]]
        torch.testing.assert_close(distribution.log_probability([path])[0].detach(), expected)


def test_probabilities_sum_to_one_and_make_the_entropy():
    _, distribution = made()
    whole = [Architecture(operations) for operations in itertools.product(range(3), repeat=8)]
    logs = distribution.log_probability(whole).detach().double()
    assert logs.exp().sum().item() == pytest.approx(1, abs=1e-5)
    assert distribution.entropy().item() == pytest.approx(-(logs.exp() * logs).sum().item(), rel=1e-5)
    assert distribution.most_probable() == whole[int(logs.argmax())]


@pytest.mark.parametrize(("name", "widths"), [("mobilenet-v2-se", None), ("nas-bench-201", (0.5, 1.0))])
def test_the_hand_over_changes_nothing(name, widths):
    space, distribution = made(name, widths)
    distribution.own.data.zero_()
    paths = [space.sample(torch.Generator().manual_seed(seed)) for seed in range(20)]
    before = distribution.log_probability(paths).exp()
    distribution.join()
    assert (distribution.log_probability(paths).exp() - before).abs().max() < 1e-6
    distribution.log_probability(paths).sum().backward()
    assert distribution.factors.grad is None
    assert distribution.own.grad.abs().max() > 0


def test_a_space_of_products_has_few_factors():
    _, distribution = made("mobilenet-v2-se")
    assert len(distribution.factors) == 21 * (1 + 2 + 3 + 2)
    assert len(distribution.own) == 21 * 13


def test_what_is_coupled_needs_the_joint_form():
    """Operation and width have to be the first both, or the second both: at even odds factors alone do not move."""
    _, distribution = made(widths=(0.5, 1.0))
    right = [Architecture((choice,) * 8, (choice,) * 8) for choice in (0, 1)]

    def loss():
        return -distribution.log_probability(right).logsumexp(dim=0)

    for parameter in distribution.parameters():
        parameter.data.zero_()
    loss().backward()
    # Values are named in the order in which choices bring them; the third operation, the last, is never right.
    operation_0, width_0, width_1, operation_1, _ = distribution.factors.grad.view(8, 5).unbind(1)
    torch.testing.assert_close(operation_0, operation_1, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(width_0, width_1, rtol=1e-4, atol=1e-5)
    distribution.join()
    optimizer = torch.optim.Adam(distribution.parameters(), 0.1)
    for _ in range(300):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    # Each right choice has half of its layer then; at even odds of factors a quarter is all, and the loss 15 log 2.
    assert loss().item() < 5


def test_samples_have_the_frequencies_of_the_distribution():
    _, distribution = made(widths=(0.5, 1.0))
    paths = distribution.sample(4000, torch.Generator().manual_seed(1))
    [first, *_] = distribution.log_probabilities()
    counts = torch.zeros(3, 2)
    for path in paths:
        counts[path.operations[0], path.widths[0]] += 1
    torch.testing.assert_close(counts.flatten() / 4000, first.exp().detach(), rtol=0, atol=0.03)
    assert math.isclose(first.exp().sum().item(), 1, rel_tol=1e-5)
