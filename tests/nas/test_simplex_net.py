import math

import pytest
import torch

from kshot_ext.nas.code_penalties import imbalance
from kshot_ext.nas.simplex_net import SimplexNet, code_statistics
from kshot_ext.nas.spaces import create_space


@pytest.fixture
def opinionated(tiny_space, seeded):
    """A simplex-net whose codes differ."""
    simplex_net = SimplexNet(tiny_space, 3, seeded(0))
    torch.nn.init.normal_(simplex_net.output.weight, generator=seeded(1))
    return simplex_net


def test_rows_lie_on_the_simplex(tiny_space, opinionated, seeded):
    codes = opinionated([tiny_space.sample(seeded(seed)) for seed in range(10)])
    assert codes.shape == (10, 3)
    assert codes.min() >= 0
    torch.testing.assert_close(codes.sum(dim=1), torch.ones(10))


def test_starts_at_equal_codes(tiny_space, seeded):
    code = SimplexNet(tiny_space, 5, seeded(0)).code(tiny_space.largest())
    torch.testing.assert_close(code, torch.full((5,), 0.2))


def test_code_tells_layers_apart(tiny_space, opinionated):
    cheapest = tiny_space.cheapest()
    first, last = cheapest.with_operation(1, 2), cheapest.with_operation(7, 2)
    assert not torch.allclose(opinionated.code(first), opinionated.code(last))


def test_code_carries_no_gradient(tiny_space, opinionated):
    assert not opinionated.code(tiny_space.cheapest()).requires_grad
    assert opinionated([tiny_space.cheapest()]).requires_grad


def test_code_reads_the_widths_too(seeded):
    space = create_space("nas-bench-macro", image_shape=(1, 8, 8), num_classes=3, channels=2, widths=(0.5, 1.0))
    simplex_net = SimplexNet(space, 3, seeded(0))
    architecture = space.cheapest()
    torch.testing.assert_close(simplex_net.code(architecture), torch.full((3,), 1 / 3))
    torch.nn.init.normal_(simplex_net.output.weight, generator=seeded(1))
    codes = simplex_net([architecture, architecture.with_width(2, 1), architecture.with_width(3, 1)])
    assert torch.pdist(codes).min() > 1e-4
    assert codes.sum(dim=1).tolist() == pytest.approx([1, 1, 1])


def test_imbalance_looks_at_the_mean_code_only():
    specialised, equal = torch.eye(4), torch.full((4, 4), 0.25)
    assert imbalance(specialised) == pytest.approx(0, abs=1e-6)
    assert imbalance(equal) == pytest.approx(0, abs=1e-6)
    assert imbalance(torch.eye(4)[:1]) == pytest.approx(math.log(4))
    assert imbalance(torch.tensor([[0.7, 0.3]])) > imbalance(torch.tensor([[0.6, 0.4]])) > 0


def test_descending_the_imbalance_evens_the_shares(tiny_space, seeded):
    simplex_net = SimplexNet(tiny_space, 3, seeded(0))
    with torch.no_grad():
        simplex_net.output.bias[0] = 2.0
    paths = [tiny_space.sample(seeded(seed)) for seed in range(20)]
    optimizer = torch.optim.Adam(simplex_net.parameters(), lr=0.01)
    before = imbalance(simplex_net(paths)).item()
    for _ in range(40):
        imbalance(simplex_net(paths)).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert imbalance(simplex_net(paths)) < 0.1 * before


def test_statistics_measure_spread_and_shares(tiny_space, opinionated, seeded):
    spread = code_statistics(opinionated, tiny_space, seeded(2), num_architectures=50)
    generator = seeded(2)
    codes = opinionated([tiny_space.sample(generator) for _ in range(50)]).detach()
    pairs = [(codes[i] - codes[j]).abs().sum() for i in range(50) for j in range(i)]
    assert spread.distance == pytest.approx(float(sum(pairs) / len(pairs)), rel=1e-5)
    assert sum(spread.entry_shares) == pytest.approx(1, rel=1e-5)
    equal = code_statistics(SimplexNet(tiny_space, 3, seeded(0)), tiny_space, seeded(2))
    assert equal.distance == 0
    assert equal.entry_shares == pytest.approx([1 / 3] * 3)
