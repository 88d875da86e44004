import pytest
import torch

from kshot_ext.nas.networks.code_settings import CodeForm, CodeSettings
from kshot_ext.nas.networks.simplex_net import SimplexNet, code_statistics
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


def test_an_equal_part_bounds_the_codes(opinionated, tiny_space, seeded):
    paths = [tiny_space.sample(seeded(seed)) for seed in range(20)]
    free = opinionated(paths)
    opinionated.set_form(CodeForm(free_share=0.3, temperature=1.0))
    torch.testing.assert_close(opinionated(paths), 0.7 / 3 + 0.3 * free)
    opinionated.set_form(CodeForm(free_share=0.0, temperature=1.0))
    assert torch.equal(opinionated(paths), torch.full((20, 3), 1 / 3))


def test_temperature_divides_the_logits(opinionated, tiny_space, seeded):
    paths = [tiny_space.sample(seeded(seed)) for seed in range(20)]
    sharp = opinionated(paths)
    opinionated.set_form(CodeForm(free_share=1.0, temperature=2.0))
    roots = sharp.sqrt()
    torch.testing.assert_close(opinionated(paths), roots / roots.sum(dim=1, keepdim=True))


def test_the_form_is_part_of_the_state(opinionated, tiny_space, seeded):
    opinionated.set_form(CodeForm(free_share=0.3, temperature=2.0))
    other = SimplexNet(tiny_space, 3, seeded(5))
    other.load_state_dict(opinionated.state_dict())
    assert torch.equal(other.code(tiny_space.largest()), opinionated.code(tiny_space.largest()))


def test_codes_per_layer(tiny_space, seeded):
    simplex_net = SimplexNet(tiny_space, 3, seeded(0), settings=CodeSettings(per_layer=True))
    paths = [tiny_space.sample(seeded(seed)) for seed in range(5)]
    torch.testing.assert_close(simplex_net(paths), torch.full((5, 8, 3), 1 / 3))
    torch.nn.init.normal_(simplex_net.output.weight, generator=seeded(1))
    codes = simplex_net(paths).detach()
    torch.testing.assert_close(codes.sum(dim=2), torch.ones(5, 8))
    assert torch.pdist(codes[0]).min() > 1e-4
    torch.testing.assert_close(simplex_net.code(paths[2]), codes[2])
    statistics = code_statistics(simplex_net, tiny_space, seeded(2), num_architectures=20)
    generator = seeded(2)
    codes = simplex_net([tiny_space.sample(generator) for _ in range(20)]).detach()
    distance = sum(float(torch.pdist(codes[:, layer], p=1).mean()) for layer in range(8)) / 8
    assert statistics.distance == pytest.approx(distance, rel=1e-5)
    assert statistics.entry_shares == pytest.approx(codes.mean(dim=(0, 1)).tolist(), rel=1e-5)


@pytest.mark.parametrize("per_layer", [False, True])
def test_a_spread_starts_codes_from_the_cost(tiny_space, seeded, per_layer):
    settings = CodeSettings(start="cost", spread=2.0, per_layer=per_layer)
    simplex_net = SimplexNet(tiny_space, 4, seeded(0), settings=settings)
    assert simplex_net.code(tiny_space.cheapest()).argmax(dim=-1).unique().tolist() == [0]
    assert simplex_net.code(tiny_space.largest()).argmax(dim=-1).unique().tolist() == [3]
    statistics = code_statistics(simplex_net, tiny_space, seeded(2))
    assert statistics.distance > 0.1
    assert min(statistics.entry_shares) > 0.25 / 4


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
