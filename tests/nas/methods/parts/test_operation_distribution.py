from collections import Counter
from itertools import islice, pairwise, product
from math import exp, prod

import pytest
import torch

from kshot_ext.nas.methods.parts.operation_distribution import OperationDistribution
from kshot_ext.nas.spaces import create_space


@pytest.fixture
def distribution(tiny_space, seeded):
    return OperationDistribution(tiny_space, seeded(0), spread=1.0)


def weights_by_hand(distribution):
    """Probabilities by plain arithmetic."""
    rows = []
    for logits in distribution.logits:
        powers = [exp(x) for x in logits.tolist()]
        rows.append([power / sum(powers) for power in powers])
    return rows


def test_probabilities_are_shares_of_the_logits_powers(distribution):
    rows = weights_by_hand(distribution)
    for found, row in zip(distribution.probabilities(), rows, strict=True):
        assert found.tolist() == pytest.approx(row, rel=1e-6)
    means = distribution.mean_probabilities()
    assert means["mb3_k3"] == pytest.approx(sum(row[1] for row in rows) / 8, rel=1e-6)
    assert sum(means.values()) == pytest.approx(1)


def test_the_likeliest_come_first_each_once(distribution):
    rows = weights_by_hand(distribution)
    everything = {a: prod(row[choice] for row, choice in zip(rows, a)) for a in product(range(3), repeat=8)}
    given = [a.operations for a in distribution.likeliest_first(torch.Generator())]
    assert len(given) == len(set(given)) == 3**8
    probabilities = [everything[a] for a in given]
    assert all(later <= earlier * (1 + 1e-6) for earlier, later in pairwise(probabilities))


def test_drawn_architectures_are_as_frequent_as_they_are_probable(distribution, seeded):
    rows, generator, draws = weights_by_hand(distribution), seeded(2), 3000
    drawn = [distribution.sample(generator).operations for _ in range(draws)]
    for row, column in zip(rows, zip(*drawn)):
        counts = Counter(column)
        for choice, probability in enumerate(row):
            spread = (probability * (1 - probability) / draws) ** 0.5
            assert counts[choice] / draws == pytest.approx(probability, abs=4.5 * spread)


def test_widths_are_drawn_uniformly(seeded):
    space = create_space("nas-bench-macro", image_shape=(1, 8, 8), num_classes=3, channels=4, widths=(0.5, 1.0))
    distribution, generator = OperationDistribution(space, seeded(0), 1.0), seeded(3)
    architectures = [distribution.sample(generator) for _ in range(200)]
    architectures += islice(distribution.likeliest_first(generator), 200)
    for architecture in architectures:
        space.validate(architecture)
    widths = Counter(width for architecture in architectures for width in architecture.widths)
    assert widths[0] / widths.total() == pytest.approx(0.5, abs=0.04)


def test_entropies_are_those_of_the_definition(tiny_space, seeded):
    even = OperationDistribution(tiny_space, seeded(0), spread=0.0)
    assert even.entropies() == pytest.approx([torch.tensor(3.0).log().item()] * 8)
    with torch.no_grad():
        even.logits[2][1] = 200.0
    assert even.entropies()[2] == pytest.approx(0, abs=1e-9)
    assert even.sample(seeded(1)).operations[2] == 1
