"""Mixtures of candidates in the supernets of all spaces: against single paths, sums by hand and finite differences."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch

from kshot_ext.nas.networks.supernet import Supernet
from kshot_ext.nas.spaces import create_space
from kshot_ext.nn.code import set_code

pytestmark = pytest.mark.usefixtures("one_thread")
SPACES = {"nas-bench-macro": {}, "nas-bench-201": {"cells": 1}, "shufflenet-v2": {}, "mobilenet-v2-se": {}}
CODES = {1: None, 2: torch.tensor([0.25, 0.75])}


def made(name, shots, widths=None, dtype=torch.float32):
    space = create_space(name, image_shape=(3, 8, 8), num_classes=3, channels=4, widths=widths, **SPACES[name])
    generator = torch.Generator().manual_seed(0)
    supernet = Supernet(space, shots, generator).to(dtype)
    images = torch.randn(6, 3, 8, 8, generator=generator).to(dtype).contiguous(memory_format=torch.channels_last)
    code = CODES[shots]
    return supernet, images, None if code is None else code.to(dtype)


def one_hot(space, path, dtype=torch.float32, others=None):
    return [
        [
            torch.tensor(1.0, dtype=dtype) if choice == chosen else others
            for choice in range(len(space.operations(layer)))
        ]
        for layer, chosen in enumerate(path.operations)
    ]


def scores_of_mixture(supernet, images, weights, code, widths=None):
    with supernet.coded_mixture(weights, code, widths=widths) as network:
        return network(images)


@pytest.mark.parametrize("shots", CODES)
@pytest.mark.parametrize("name", SPACES)
def test_a_one_hot_mixture_is_the_single_path(name, shots):
    supernet, images, code = made(name, shots, dtype=torch.float64)
    path = supernet.space.sample(torch.Generator().manual_seed(3))
    expected = supernet(images, path, code)
    assert torch.equal(scores_of_mixture(supernet, images, one_hot(supernet.space, path), code), expected)
    if name.startswith("nas-bench"):  # those with few operations
        zeros = one_hot(supernet.space, path, torch.float64, others=torch.zeros((), dtype=torch.float64))
        torch.testing.assert_close(scores_of_mixture(supernet, images, zeros, code), expected)


@pytest.mark.parametrize("name", SPACES)
def test_a_narrow_mixture_is_the_narrow_path(name):
    supernet, images, code = made(name, 2, widths=(0.5, 1.0))
    path = supernet.space.sample(torch.Generator().manual_seed(4))
    assert set(path.widths) == {0, 1}
    mixed = scores_of_mixture(supernet, images, one_hot(supernet.space, path), code, path.widths)
    torch.testing.assert_close(mixed, supernet(images, path, code))
    wide = scores_of_mixture(supernet, images, one_hot(supernet.space, path), code)
    assert not torch.allclose(wide, mixed)


def random_weights(space, seed, most=4):
    """Of the last few candidates of each layer."""
    generator = torch.Generator().manual_seed(seed)
    weights = torch.rand(space.num_layers, most, generator=generator, dtype=torch.float64)
    counts = [len(space.operations(layer)) for layer in range(space.num_layers)]
    return [
        [None] * (count - most) + [weight.clone().requires_grad_() for weight in row[:count]]
        for row, count in zip(weights, counts)
    ]


@pytest.mark.parametrize("name", SPACES)
def test_scores_are_those_of_sums_by_hand(name):
    """Each candidate called by itself, and added up here; one is left out of each layer's sum."""
    supernet, images, code = made(name, 2, dtype=torch.float64)
    space = supernet.space
    weights = random_weights(space, 5)
    for layer, row in enumerate(weights):
        row[-1 - layer % 3] = None
    mixed = scores_of_mixture(supernet, images, weights, code)

    def summed(layer, operations, value):
        return sum(w * op(value) for w, op in zip(weights[layer], operations, strict=True) if w is not None)

    set_code(supernet, code)
    with torch.no_grad():
        value = supernet.stem(images)
        if name == "nas-bench-201":
            for stage in range(3):
                value = value if stage == 0 else supernet.head["reductions"][stage - 1](value)
                edges = [[candidate[stage][0] for candidate in candidates] for candidates in supernet.layers]
                one = summed(0, edges[0], value)
                two = summed(1, edges[1], value) + summed(2, edges[2], one)
                value = summed(3, edges[3], value) + summed(4, edges[4], one) + summed(5, edges[5], two)
            expected = supernet.head["classifier"](value)
        else:
            for layer, candidates in enumerate(supernet.layers):
                value = summed(layer, candidates, value)
            expected = supernet.head(value)
    torch.testing.assert_close(mixed, expected)
    assert mixed.requires_grad


@pytest.mark.parametrize("name", SPACES)
def test_gradients_of_weights_and_code_are_those_of_finite_differences(name):
    supernet, images, code = made(name, 2, dtype=torch.float64)
    supernet.eval()  # far from the kinks that batch statistics of six images bring
    weights, code = random_weights(supernet.space, 6), code.requires_grad_()

    def loss():
        return scores_of_mixture(supernet, images, weights, code).square().mean()

    loss().backward()
    for weight in [weight for row in weights[:2] for weight in row if weight is not None]:
        torch.testing.assert_close(weight.grad, difference(loss, weight), rtol=1e-4, atol=1e-9)
    assert any(weight.grad != 0 for weight in weights[0] if weight is not None)
    torch.testing.assert_close(code.grad[0], difference(loss, code, 0), rtol=1e-4, atol=1e-9)


@torch.no_grad()
def difference(loss, parameter, index=None, step=1e-6):
    values = []
    entry = parameter if index is None else parameter[index]
    for shift in (step, -2 * step):
        entry += shift
        values.append(loss())
    entry += step
    return (values[0] - values[1]) / (2 * step)


def test_what_is_left_out_is_not_computed_and_gets_no_gradient():
    supernet, images, _ = made("nas-bench-macro", 1)
    weights = [[None, torch.tensor(0.5), torch.tensor(0.5)]] * 8
    scores_of_mixture(supernet.train(), images, weights, None).sum().backward()
    for layer in supernet.layers:
        used = [{p.grad is not None for p in candidate.parameters()} for candidate in layer]
        assert used[0] <= {False}
        assert used[1] == used[2] == {True}
        counts = [{int(count) for key, count in c.state_dict().items() if "tracked" in key} for c in layer]
        assert counts[0] <= {0}
        assert counts[1] == counts[2] == {1}


def test_a_row_of_codes_for_each_layer_and_equal_rows():
    supernet, images, code = made("nas-bench-macro", 2, dtype=torch.float64)
    weights = random_weights(supernet.space, 8)
    rows = code.repeat(8, 1)
    expected = scores_of_mixture(supernet, images, weights, code)
    torch.testing.assert_close(scores_of_mixture(supernet, images, weights, rows), expected)
    rows[2] = torch.tensor([1.0, 0.0])
    assert not torch.allclose(scores_of_mixture(supernet, images, weights, rows), expected)


def test_copies_need_a_code_and_one_copy_none():
    supernet, images, _ = made("nas-bench-macro", 2)
    path = supernet.space.largest()
    with pytest.raises(ValueError, match=r"code: expected \[2\], or one row for each of 8 layers, got None"):
        supernet(images, path)
    single, images, _ = made("nas-bench-macro", 1)
    assert torch.equal(single.eval()(images, path), single(images, path, torch.ones(1)))
    with pytest.raises(ValueError, match="needs a code"):
        single.mixture(one_hot(single.space, path))(images)


ONE = torch.tensor(1.0)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([[ONE] * 3] * 7, "weights: expected a row for each of 8 layers, got 7"),
        ([[ONE] * 3] * 7 + [[ONE] * 2], r"weights\[7\]: expected one for each of identity, mb3_k3, mb6_k5, got 2"),
        ([[None] * 3] + [[ONE] * 3] * 7, r"weights\[0\]: expected at least one of identity, .* computed, got none"),
        ([[torch.ones(1)] * 3] * 8, r"weights\[0\]: expected tensors of a single number, got \[1\]"),
    ],
)
def test_weights_that_do_not_fit_are_refused(weights, message):
    supernet, _, _ = made("nas-bench-macro", 1)
    with pytest.raises(ValueError, match=message):
        supernet.mixture(weights)
    with pytest.raises(ValueError, match="searches no widths"):
        supernet.mixture([[ONE] * 3] * 8, (0,) * 8)


def test_operations_of_a_layer_do_not_disturb_each_other():
    """Each pair of operations of one edge, in both orders: the sum does not depend on it."""
    supernet, images, _ = made("nas-bench-201", 1, dtype=torch.float64)
    for pair in combinations(range(5), 2):
        row = [torch.tensor(0.5, dtype=torch.float64) if choice in pair else None for choice in range(5)]
        mixed = scores_of_mixture(supernet.eval(), images, [row] * 6, None)
        with supernet.coded_mixture([row] * 6) as network:
            for stage in network.edges:
                for edge in (edge for cell in stage for edge in cell):
                    edge.weights.reverse()
                    edge.operations = torch.nn.ModuleList(reversed(edge.operations))
            torch.testing.assert_close(network(images), mixed)
