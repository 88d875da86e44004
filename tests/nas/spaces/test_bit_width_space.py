"""Bits as choices of a space: names, costs, and networks that share weights."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from kshot_ext.nas.networks.export import extract
from kshot_ext.nas.networks.supernet import Supernet
from kshot_ext.nas.spaces import create_space, space_names
from kshot_ext.nas.spaces.architecture import Architecture
from kshot_ext.nas.spaces.bit_width_space import BitWidthSpace, quantised
from kshot_ext.nas.spaces.bit_widths import BitWidths, parse_bits
from kshot_ext.nas.spaces.nas_bench_macro import NASBenchMacro
from kshot_ext.nn.quantiser import quantise_activation, quantise_weight

pytestmark = pytest.mark.usefixtures("one_thread")
BITS = parse_bits("w2a3,w8a8")


def macro(widths=None, bits=BITS):
    return create_space("nas-bench-macro", image_shape=(1, 8, 8), num_classes=3, channels=2, widths=widths, bits=bits)


def test_operations_have_bits_where_they_have_weights():
    space = macro()
    assert space.operations(0) == tuple(
        f"{name}@{bits}" for name in ("identity", "mb3_k3", "mb6_k5") for bits in ("w2a3", "w8a8")
    )
    assert space.operations(1)[0] == "identity"  # where it changes no shape it has no weights
    assert space.num_choices == (6, 5, 6, 5, 5, 6, 5, 5)
    cell = create_space("nas-bench-201", image_shape=(1, 8, 8), num_classes=3, channels=2, cells=1, bits=BITS)
    assert cell.operations(0)[:3] == ("none", "skip_connect", "nor_conv_1x1@w2a3")


def test_bits_are_given_and_taken_away():
    space, path = macro(), Architecture((0, 0, 1, 2, 0, 0, 1, 2))
    few, many = (space.with_bits(path, bits) for bits in BITS)
    assert space.operation_names(few) == (
        *("identity@w2a3", "identity", "mb3_k3@w2a3", "mb6_k5@w2a3", "identity", "identity@w2a3"),
        *("mb3_k3@w2a3", "mb6_k5@w2a3"),
    )
    assert space.bit_widths(many)[:3] == (BITS[1], None, BITS[1])
    assert space.without_bits(few) == space.without_bits(many) == path
    assert space.floating_point is space.space
    with pytest.raises(ValueError, match="bits: expected one of w2a3, w8a8, got w4a4"):
        space.with_bits(path, BitWidths(4, 4))


def test_costs_by_hand():
    """A layer of 3x3 kernels counted on paper: 8x8 images, 2 channels, 4 after the first layer, which halves them."""
    space = macro()
    path = Architecture((1,) * 8)
    few, many = (space.cost(space.with_bits(path, bits)) for bits in BITS)
    assert few.macs == many.macs == space.space.count_macs(path)
    assert few.parameters == many.parameters
    assert space.space.cost(path).bit_operations == 0
    assert many.bit_operations == 64 * many.macs  # stem and head have 8 bits as well
    outer = 64 * (9 * 2 * 64) + 64 * (16 * 80 + 80 * 3)  # stem at 8x8; 1x1 convolution and classifier at one pixel
    assert few.bit_operations - outer == 6 * (few.macs - outer // 64)
    first = 2 * 6 * 64 + 9 * 6 * 16 + 6 * 4 * 16  # expand at 8x8, depthwise and project at 4x4
    names = space.operations(0)
    assert space.layer_cost(0, names.index("mb3_k3@w2a3")).bit_operations == 6 * first
    assert space.layer_cost(1, 0).bit_operations == 0


def test_the_cheapest_has_fewest_bits_and_the_largest_most():
    space = macro()
    costs = [space.cost(space.sample(torch.Generator().manual_seed(seed))).bit_operations for seed in range(50)]
    assert space.cost(space.cheapest()).bit_operations <= min(costs)
    assert space.cost(space.largest()).bit_operations >= max(costs)
    assert set(space.bit_widths(space.largest())) == {BITS[1]}


def test_operations_are_drawn_as_without_bits_and_bits_uniformly(seeded):
    space, generator = macro(), seeded(0)
    drawn = [space.operation_names(space.sample(generator)) for _ in range(600)]
    second = Counter(names[1] for names in drawn)
    assert second["identity"] / 600 == pytest.approx(1 / 3, abs=0.07)
    for name in ("mb3_k3@w2a3", "mb3_k3@w8a8", "mb6_k5@w2a3", "mb6_k5@w8a8"):
        assert second[name] / 600 == pytest.approx(1 / 6, abs=0.06)


@pytest.mark.parametrize("name", space_names())
def test_every_space_takes_bits_and_widths(name, seeded):
    """The supernet's modules, quantised, give what a plain network of its mixed weights gives."""
    sizes = {"cells": 1} if name == "nas-bench-201" else {}
    widths = None if name == "groupable" else (0.5, 1.0)
    shape = {"image_shape": (3, 8, 8), "num_classes": 3, "channels": 4, "widths": widths}
    space = create_space(name, **shape, **sizes, bits=BITS)
    supernet = Supernet(space, 2, seeded(0)).double().eval()
    code = torch.tensor([0.4, 0.6], dtype=torch.float64)
    images = torch.randn(2, 3, 8, 8, generator=seeded(1), dtype=torch.float64)
    path = space.sample(seeded(2))
    plain = extract(supernet, path, code)
    torch.testing.assert_close(supernet(images, path, code), plain(images))
    assert sum(p.numel() for p in plain.parameters()) == space.count_parameters(path)


def test_choices_of_an_operation_share_its_weights(seeded):
    space = macro(widths=(0.5, 1.0))
    supernet, without = Supernet(space, 2, seeded(0)), Supernet(space.space, 2, seeded(0))
    assert sum(p.numel() for p in supernet.parameters()) == sum(p.numel() for p in without.parameters())
    code = torch.tensor([0.4, 0.6])
    images = torch.randn(4, 1, 8, 8, generator=seeded(1))
    path = Architecture((1,) * 8, (0,) * 8)
    gradients = []
    for bits in BITS:
        supernet.zero_grad()
        supernet(images, space.with_bits(path, bits), code).square().sum().backward()
        gradients.append({name: p.grad for name, p in supernet.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    few, many = (supernet(images, space.with_bits(path, bits), code) for bits in BITS)
    assert not torch.allclose(few, many, rtol=0.01)


def test_many_bits_come_near_floating_point(seeded):
    space = macro(bits=parse_bits("2,8"))
    supernet, without = Supernet(space, 1, seeded(0)), Supernet(space.space, 1, seeded(0))
    images = torch.randn(16, 1, 8, 8, generator=seeded(1))
    path, code = Architecture((0,) * 8), torch.ones(1)  # deeper ones blow up any error before they are trained
    exact = without(images, path, code).detach()
    errors = [
        float((supernet(images, space.with_bits(path, bits), code).detach() - exact).norm() / exact.norm())
        for bits in (BitWidths(8, 8), BitWidths(2, 2))
    ]
    assert errors[0] < 0.1 < errors[1]


def test_an_exported_network_needs_only_torch_and_has_few_values(seeded):
    space = macro()
    network = space.build(space.with_bits(Architecture((1,) * 8), BITS[0]), seeded(0))
    assert {type(module).__module__.split(".")[0] for module in network.modules()} == {"torch"}
    assert "kshot_ext" not in network.code
    operands = []

    class Recorder(torch.fx.Interpreter):
        def call_function(self, target, args, kwargs):
            operands.extend([args[:2]] if target is torch.conv2d else [])
            return super().call_function(target, args, kwargs)

    Recorder(network.eval()).run(torch.randn(2, 1, 8, 8, generator=seeded(1)))
    assert len(operands) == 2 + 3 * 8  # stem, head, three in each layer
    for input, weight in operands[1:-1]:
        assert max(len(kernel.unique()) for kernel in weight) <= 2**2 - 1
        assert max(len(image.unique()) for image in input) <= 2**3


def test_gradients_reach_the_weights_of_a_built_network(seeded):
    space = macro()
    network = space.build(space.with_bits(Architecture((1,) * 8), BITS[0]), seeded(0))
    network(torch.randn(4, 1, 8, 8, generator=seeded(1))).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


def test_layers_keep_names_and_tensors():
    conv = nn.Conv2d(2, 3, 1)
    weight = conv.weight
    module = quantised(nn.Sequential(conv, nn.ReLU()), BitWidths(2, 3))
    assert module[0] is conv
    assert conv.weight is weight
    images = torch.randn(2, 2, 3, 3)
    by_hand = F.conv2d(quantise_activation(images, 3), quantise_weight(weight, 2), conv.bias)
    torch.testing.assert_close(module[0](images), by_hand)


def test_what_cannot_have_bits_is_refused(tiny_space):
    with pytest.raises(ValueError, match="bits: expected a space without, got nas-bench-macro with bits"):
        BitWidthSpace(macro(), BITS)
    with pytest.raises(ValueError, match="bits: expected Conv2d and Linear only, but layer '1' is a Conv1d"):
        quantised(nn.Sequential(nn.Conv2d(1, 1, 1), nn.Conv1d(1, 1, 1)), BITS[0])
    with pytest.raises(ValueError, match="key '00000000': space nas-bench-macro has bits here"):
        macro().from_key("00000000")

    class OneDimensional(NASBenchMacro):
        def candidate(self, operation, shape):
            return nn.Conv1d(1, 1, 1)

    with pytest.raises(ValueError, match="but layer '' is a Conv1d"):
        BitWidthSpace(OneDimensional(image_shape=(1, 8, 8), num_classes=3), BITS)
