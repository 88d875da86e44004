"""Layers with bits: plain, K-shot, converted, narrowed and merged, against the formula written out."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import kshot_ext
from kshot_ext.fuse import fuse
from kshot_ext.nn import KShotConv2d, KShotQuantisedConv2d, KShotQuantisedLinear, QuantisedConv2d, QuantisedLinear
from kshot_ext.nn.quantiser import quantise_activation, quantise_weight

CODE = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
BITS = {"weight_bits": 3, "activation_bits": 2}
pytestmark = pytest.mark.usefixtures("one_thread")


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def mixed(dictionary: torch.Tensor, out_channels: int, in_channels: int | None = None) -> torch.Tensor:
    weight = torch.einsum("k,k...->...", CODE, dictionary)[:out_channels]
    return weight if in_channels is None else weight[:, :in_channels]


def blocks(kind: type = nn.Conv2d, inner: int = 6, **bits: int) -> nn.Sequential:
    """Dense, depthwise and strided convolutions with norms between, and a classifier."""
    linear = QuantisedLinear if bits else nn.Linear
    return nn.Sequential(
        *(kind(3, inner, 1, bias=False, **bits), nn.BatchNorm2d(inner), nn.ReLU()),
        *(kind(inner, inner, 3, padding=1, groups=inner, bias=False, **bits), nn.BatchNorm2d(inner), nn.ReLU()),
        kind(inner, 4, 3, stride=2, padding=1, padding_mode="reflect", **bits),
        *(nn.Flatten(), linear(4 * 3 * 3, 5, **bits)),
    ).double()


@pytest.fixture
def images():
    return torch.randn(4, 3, 6, 6, generator=seeded(1), dtype=torch.float64)


@pytest.fixture
def wide():
    torch.manual_seed(0)
    return kshot_ext.convert(blocks(), 3)


def by_hand(model: nn.Sequential, images: torch.Tensor, inner: int) -> torch.Tensor:
    """The K-shot model's output in training mode, layer by layer, with quantised operands of `inner` channels."""
    first, norm, _, depthwise, other_norm, _, last, _, classify = model

    def conv(value, layer, out, into=None, groups=1, **options):
        weight = quantise_weight(mixed(layer.weight, out, into), 3)
        bias = None if layer.bias is None else mixed(layer.bias, out)
        return F.conv2d(quantise_activation(value, 2), weight, bias, groups=groups, **options)

    def normed(value, layer):
        mean, variance = value.mean((0, 2, 3), keepdim=True), value.var((0, 2, 3), keepdim=True, unbiased=False)
        scale, shift = (mixed(p, inner).view(1, -1, 1, 1) for p in (layer.weight, layer.bias))
        return ((value - mean) / (variance + layer.eps).sqrt() * scale + shift).relu()

    value = normed(conv(images, first, inner, 3), norm)
    value = normed(conv(value, depthwise, inner, padding=1, groups=inner), other_norm)
    value = quantise_activation(value, 2)
    weight, bias = quantise_weight(mixed(last.weight, 4, inner), 3), mixed(last.bias, 4)
    value = F.conv2d(F.pad(value, (1, 1, 1, 1), mode="reflect"), weight, bias, stride=2).flatten(1)
    weight, bias = quantise_weight(mixed(classify.weight, 5), 3, 1), mixed(classify.bias, 5)
    return F.linear(quantise_activation(value, 2, 1), weight, bias)


@pytest.mark.parametrize("inner", [6, 4])
def test_a_view_with_bits_computes_with_the_mixed_weight_quantised(wide, images, inner):
    view = kshot_ext.narrow(wide, blocks(QuantisedConv2d, inner, **BITS))
    kshot_ext.set_code(view, CODE)
    output = view(images)
    torch.testing.assert_close(output, by_hand(wide, images, inner))
    assert view[3].weight is wide[3].weight
    assert type(wide[3]) is KShotConv2d  # which is as it was
    names = [name for name, p in wide.named_parameters() if p.requires_grad]
    theirs = torch.autograd.grad(by_hand(wide, images, inner).square().sum(), [*wide.parameters()])
    ours = torch.autograd.grad(view(images).square().sum(), [*wide.parameters()])
    for name, one, other in zip(names, ours, theirs):
        torch.testing.assert_close(one, other, msg=name)


def test_convert_and_merge_keep_bits(images):
    torch.manual_seed(0)
    plain = blocks(QuantisedConv2d, **BITS)
    kshot = kshot_ext.convert(plain, 3)
    assert [type(kshot[index]) for index in (0, 8)] == [KShotQuantisedConv2d, KShotQuantisedLinear]
    report = kshot_ext.conversion_report(kshot)
    assert report.swapped["0"] == "QuantisedConv2d"
    assert report.swapped["8"] == "QuantisedLinear"
    kshot_ext.set_code(kshot, torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64))
    torch.testing.assert_close(kshot(images), plain(images))
    merged = kshot_ext.merge(kshot, CODE)
    kshot_ext.set_code(kshot, CODE)
    torch.testing.assert_close(merged.train()(images), kshot.train()(images))
    assert type(merged[0]) is QuantisedConv2d
    assert (merged[0].weight_bits, merged[0].activation_bits) == (3, 2)
    assert "weight_bits=3, activation_bits=2" in repr(merged[0])
    torch.testing.assert_close(copy.deepcopy(kshot)[0].weight, kshot[0].weight)


def test_plain_layers_by_hand(images):
    torch.manual_seed(0)
    conv = QuantisedConv2d(3, 4, 3, stride=2, padding=1, **BITS).double()
    by_formula = F.conv2d(
        quantise_activation(images, 2), quantise_weight(conv.weight, 3), conv.bias, stride=2, padding=1
    )
    assert torch.equal(conv(images), by_formula)
    rows = images.flatten(1)
    linear = QuantisedLinear(rows.shape[1], 4, **BITS).double()
    assert torch.equal(
        linear(rows), F.linear(quantise_activation(rows, 2, 1), quantise_weight(linear.weight, 3, 1), linear.bias)
    )
    assert not torch.allclose(linear(rows), F.linear(rows, linear.weight, linear.bias))


def test_fusing_leaves_them_as_they_are(images):
    torch.manual_seed(0)
    model = blocks(QuantisedConv2d, **BITS)
    output = copy.deepcopy(model)(images)
    report = fuse(model)
    assert "QuantisedConv2d is not exactly a Conv2d" in str(report)
    torch.testing.assert_close(model(images), output)


def test_a_code_for_each_sample_is_refused(images):
    layer = KShotQuantisedConv2d(3, 4, 1, num_shots=3, **BITS).double()
    with pytest.raises(ValueError, match=r"code: expected \[3\], one for all samples, as KShotQuantisedConv2d"):
        layer(images, CODE.expand(4, 3))


def test_a_layer_with_bits_is_no_view_without():
    wide = kshot_ext.convert(blocks(QuantisedConv2d, **BITS), 2)
    with pytest.raises(ValueError, match="layer '0': expected a layer with bits, got Conv2d"):
        kshot_ext.narrow(wide, blocks())

    class Own(QuantisedConv2d):
        pass

    with pytest.raises(
        ValueError, match="layer '0': expected a QuantisedConv2d or QuantisedLinear, got its subclass Own"
    ):
        kshot_ext.narrow(wide, blocks(Own, **BITS))
    with pytest.raises(ValueError, match="activation_bits: expected a whole number of bits from 2 to 8, got 1"):
        QuantisedLinear(2, 2, weight_bits=8, activation_bits=1)
