import copy

import pytest
import torch

from kshot_ext.nas.networks.export import extract
from kshot_ext.nas.networks.supernet import Supernet
from kshot_ext.nas.spaces import create_space
from kshot_ext.nn import KShotBatchNorm2d, KShotModule

IMAGES = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def supernet(tiny_space, seeded):
    return Supernet(tiny_space, 3, seeded(0)).eval()


def copy_of(supernet, shot, architecture):
    """A plain network that holds one of the K copies of a path's weights."""
    path = supernet.path(architecture)
    plain = supernet.space.build(architecture, torch.Generator().manual_seed(9))
    weights = {name: parameter[shot] for name, parameter in path.named_parameters()}
    plain.load_state_dict(weights | dict(path.named_buffers()))
    return plain.eval()


@pytest.mark.parametrize("shot", range(3))
def test_one_hot_code_is_the_plain_network_of_that_copy(supernet, tiny_space, seeded, shot):
    architecture = tiny_space.sample(seeded(4))
    code = torch.eye(3)[shot]
    expected = copy_of(supernet, shot, architecture)(IMAGES)
    torch.testing.assert_close(supernet(IMAGES, architecture, code), expected, rtol=1e-4, atol=1e-5)


def test_each_layer_may_have_a_code_of_its_own(supernet, tiny_space, seeded):
    """One-hot rows pick the copy of each layer; stem and head, which have no row, use the mean."""
    supernet, images, generator = supernet.double(), IMAGES.double(), seeded(5)
    with torch.no_grad():
        for parameter in supernet.parameters():  # the signal of the initial ones fades over the layers
            parameter += torch.randn(parameter.shape, generator=generator)
    architecture = tiny_space.largest()
    rows = torch.eye(3, dtype=torch.float64)[[0, 1, 2, 0, 1, 2, 0, 1]]
    path = supernet.path(architecture)
    plain = tiny_space.build(architecture, seeded(9)).double()
    weights = {}
    for name, parameter in path.named_parameters():
        part = name.partition(".")[0]
        row = rows[int(part.removeprefix("layer"))] if part.startswith("layer") else rows.mean(dim=0)
        weights[name] = torch.einsum("k,k...->...", row, parameter.detach())
    plain.load_state_dict(weights | dict(path.named_buffers()))
    output = supernet(images, architecture, rows)
    torch.testing.assert_close(output, plain.eval()(images))
    torch.testing.assert_close(extract(supernet, architecture, rows).eval()(images), output)
    assert not torch.allclose(supernet(images, architecture, rows.mean(dim=0)), output, rtol=0.01)


def test_equal_rows_are_one_code_and_each_row_gets_its_gradient(supernet, tiny_space):
    architecture, code = tiny_space.largest(), torch.tensor([0.2, 0.3, 0.5])
    expected = supernet(IMAGES, architecture, code)
    rows = code.repeat(8, 1).requires_grad_()
    torch.testing.assert_close(supernet(IMAGES, architecture, rows), expected, rtol=1e-4, atol=1e-5)
    code.requires_grad_()
    supernet(IMAGES, architecture, code).square().mean().backward()
    supernet(IMAGES, architecture, rows).square().mean().backward()
    torch.testing.assert_close(rows.grad.sum(dim=0), code.grad, rtol=1e-3, atol=1e-5)
    assert rows.grad.abs().sum(dim=1).min() > 0


def test_refuses_rows_that_are_not_one_for_each_layer(supernet, tiny_space):
    with pytest.raises(ValueError, match=r"code: expected \[3\], or one row for each of 8 layers, got \[6, 3\]"):
        supernet(IMAGES, tiny_space.largest(), torch.full((6, 3), 1 / 3))


def test_batch_norm_may_stay_out_of_the_mix(tiny_space, seeded):
    """All codes then use the mean of its copies, whose gradients are equal: they move as one would."""
    supernet = Supernet(tiny_space, 3, seeded(0), mixed_batch_norm=False)
    architecture, code = tiny_space.largest(), torch.tensor([0.7, 0.1, 0.2])
    norms = [module for module in supernet.path(architecture).modules() if isinstance(module, KShotBatchNorm2d)]
    output = supernet(IMAGES, architecture, code)
    network = extract(supernet, architecture, code).train()
    torch.testing.assert_close(network(IMAGES), output, rtol=1e-4, atol=1e-5)
    output.square().mean().backward()
    for norm in norms:
        torch.testing.assert_close(norm.weight.grad, norm.weight.grad[:1].expand_as(norm.weight))
        with torch.no_grad():
            norm.weight.copy_(norm.weight.mean(dim=0).expand_as(norm.weight))
    torch.testing.assert_close(supernet(IMAGES, architecture, code), output, rtol=1e-4, atol=1e-5)
    assert supernet.path(architecture).get_submodule("stem.0").weight.grad[0].norm() > 0


def test_the_perturbation_is_a_setting(tiny_space, seeded):
    small, large = (
        Supernet(tiny_space, 2, seeded(0), perturbation=size).get_parameter("stem.0.weight") for size in (0.01, 1.0)
    )
    torch.testing.assert_close(100 * (small[1] - small[0]), large[1] - large[0], rtol=1e-3, atol=1e-4)


def test_equal_copies_make_the_code_irrelevant(supernet, tiny_space):
    with torch.no_grad():
        for parameter in supernet.parameters():
            parameter.copy_(parameter[:1].expand_as(parameter))
    outputs = [
        supernet(IMAGES, tiny_space.largest(), torch.tensor(code)) for code in ([1.0, 0.0, 0.0], [0.2, 0.3, 0.5])
    ]
    torch.testing.assert_close(*outputs, rtol=1e-4, atol=1e-5)


def test_copies_start_near_each_other_but_not_equal(supernet):
    weight = supernet.get_parameter("stem.0.weight").detach()
    difference = (weight[1] - weight[2]).norm() / weight[0].norm()
    assert 0.01 < difference < 0.5


def test_mixing_does_not_shrink_the_start(tiny_space, seeded):
    equal = torch.full((8,), 1 / 8)
    for name, weight in Supernet(tiny_space, 8, seeded(0)).named_parameters():
        if weight.dim() > 2:
            mixed = torch.tensordot(equal, weight.detach(), dims=1)
            assert mixed.norm() > 0.9 * weight[0].detach().norm(), name


def test_only_the_chosen_path_gets_gradients(supernet, tiny_space):
    architecture = tiny_space.largest()
    supernet(IMAGES, architecture, torch.full((3,), 1 / 3)).sum().backward()
    touched = {name for name, parameter in supernet.named_parameters() if parameter.grad is not None}
    chosen = tuple(f"layers.{layer}.{choice}." for layer, choice in enumerate(architecture.operations))
    assert touched
    for name in touched:
        assert name.startswith(("stem.", "head.", *chosen)), name


def test_code_receives_its_gradient(supernet, tiny_space):
    """dL/dcode[k] = <weight[k], dL/d(effective weight)>: here against a finite difference."""
    architecture = tiny_space.cheapest()
    double = supernet.double()
    code = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64, requires_grad=True)

    def loss(code):
        return double(IMAGES.double(), architecture, code).square().mean()

    loss(code).backward()
    step = 1e-6 * torch.eye(3, dtype=torch.float64)
    numeric = torch.stack([(loss(code + d) - loss(code - d)).detach() / 2e-6 for d in step])
    torch.testing.assert_close(code.grad, numeric, rtol=1e-5, atol=1e-8)


def test_another_architecture_gives_another_output(supernet, tiny_space):
    code = torch.full((3,), 1 / 3)
    outputs = [supernet(IMAGES, path, code) for path in (tiny_space.cheapest(), tiny_space.largest())]
    assert not torch.allclose(*outputs)


def test_keeps_no_code_between_calls(supernet, tiny_space):
    supernet(IMAGES, tiny_space.cheapest(), torch.full((3,), 1 / 3))
    with pytest.raises(ValueError, match="needs a code"):
        supernet.path(tiny_space.cheapest())(IMAGES)


def test_seed_decides_the_weights(tiny_space, seeded):
    first, second, other = (Supernet(tiny_space, 2, seeded(seed)).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_refuses_a_foreign_architecture(supernet, tiny_space):
    with pytest.raises(ValueError, match=r"operations\[0\]"):
        supernet(IMAGES, tiny_space.cheapest().with_operation(0, 9), torch.full((3,), 1 / 3))


def test_narrow_paths_follow_the_mode_and_a_copy_has_its_own(seeded):
    space = create_space("nas-bench-macro", image_shape=(1, 8, 8), num_classes=3, channels=4, widths=(0.5, 1.0))
    supernet = Supernet(space, 2, seeded(0))
    narrow = space.from_genes([1] * 8 + [0] * 8)
    assert all(module.training for module in supernet.train().path(narrow).modules())
    layers = [module for module in supernet.eval().path(narrow).modules() if isinstance(module, KShotModule)]
    assert not any(layer.training for layer in layers)
    shared = {id(parameter) for parameter in supernet.parameters()}
    assert {id(parameter) for parameter in supernet.path(narrow).parameters()} <= shared
    assert not {id(parameter) for parameter in copy.deepcopy(supernet).path(narrow).parameters()} & shared
