import math

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from kshot_ext.nas.networks.export import extract
from kshot_ext.nas.networks.supernet import Supernet
from kshot_ext.nas.spaces import create_space
from kshot_ext.nas.training.data_parallel import DataParallel
from kshot_ext.nas.training.gradient_matching import gradient_cosine, path_gradients
from kshot_ext.nas.training.gradient_steps import GradientSteps
from kshot_ext.ops.gradient_slot import gradient_in_slot
from kshot_ext.optim import KShotSGD

STEPS = GradientSteps("float32", torch.device("cpu"))


@pytest.mark.parametrize("shots", [1, 3])
@pytest.mark.parametrize("per_layer", [False, True])
@pytest.mark.parametrize("widths", [None, (0.5, 1.0)])
def test_gradients_are_those_of_the_network_of_effective_weights(tiny_splits, seeded, shots, per_layer, widths):
    """Under an optimiser that takes compact gradients, of which nothing is left afterwards."""
    space = create_space("nas-bench-macro", image_shape=(1, 8, 8), num_classes=3, channels=4, widths=widths)
    supernet = Supernet(space, shots, seeded(0)).double().train()  # twenty layers multiply rounding
    KShotSGD(supernet.parameters(), lr=0.1)
    path = space.sample(seeded(1))
    code = torch.rand(*((space.num_layers,) if per_layer else ()), shots, generator=seeded(2)).double().softmax(dim=-1)
    images, labels = tiny_splits.train.images[:8].double() / 255, tiny_splits.train.labels[:8]
    loss = cross_entropy(supernet(images, path, code), labels)
    found = path_gradients(supernet, path, loss, STEPS, DataParallel())
    assert all(gradient_in_slot(parameter) is None for parameter in supernet.parameters())

    network = extract(supernet, path, code).train()
    cross_entropy(network(images), labels).backward()
    expected = {name: p.grad for name, p in network.named_parameters() if p.dim() > 1}
    weights = {name: p for name, p in supernet.path(path).named_parameters() if name in expected}
    assert found.keys() == set(weights.values())
    for name, gradient in expected.items():
        full = found[weights[name]]
        assert full.shape == weights[name].shape[1:]
        used = tuple(map(slice, gradient.shape))
        torch.testing.assert_close(full[used], gradient, rtol=1e-6, atol=1e-9, msg=name)
        assert full.norm().item() == pytest.approx(gradient.norm().item(), rel=1e-6)


def test_the_cosine_is_over_shared_weights():
    first, second, third = (nn.Parameter(torch.zeros(1)) for _ in range(3))
    one = {first: torch.tensor([[3.0, 0.0]]), second: torch.tensor([4.0]), third: torch.tensor([9.0])}
    other = {second: torch.tensor([-2.0]), first: torch.tensor([[2.0, 1.0]])}
    assert gradient_cosine(one, other) == pytest.approx((6 - 8) / (5 * 3))
    assert gradient_cosine(one, other, {first, third}) == pytest.approx(2 / 5**0.5)
    assert gradient_cosine(other, one) == gradient_cosine(one, other)


def test_no_cosine_without_gradients_on_a_shared_weight():
    first, second = (nn.Parameter(torch.zeros(1)) for _ in range(2))
    one = {first: torch.ones(2)}
    for other in ({second: torch.ones(2)}, {first: torch.zeros(2)}, {first: torch.tensor([1.0, math.inf])}):
        assert math.isnan(gradient_cosine(one, other))
    assert math.isnan(gradient_cosine(one, one, {second}))
