"""Codes per sample on a single position: all copies at once, against the reference."""

from __future__ import annotations

import pytest
import torch

from kshot_ext import functional as KF
from kshot_ext import reference
from kshot_ext.ops import conv_forms

BATCH, SHOTS, OUT, IN = 5, 3, 7, 6


def _tensors(dtype: torch.dtype, kernel: tuple[int, ...]) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = {
        "input": (BATCH, IN, *kernel),
        "weight": (SHOTS, OUT, IN, *kernel),
        "code": (BATCH, SHOTS),
        "bias": (SHOTS, OUT),
        "gate": (BATCH, OUT),
    }
    return {
        name: torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
        for name, shape in shapes.items()
    }


def _assert_same(ours, expected, leaves: list[torch.Tensor]) -> None:
    torch.testing.assert_close(ours, expected)
    grad = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(
        expected.dtype
    )
    for own, other in zip(
        torch.autograd.grad(ours, leaves, grad), torch.autograd.grad(expected, leaves, grad), strict=True
    ):
        torch.testing.assert_close(own, other)


def _must_not_mix(*operands):
    raise AssertionError("a 1x1 convolution of a single pixel must not mix a weight per sample")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("out_channels", [OUT, OUT - 2])
@pytest.mark.parametrize("in_channels", [IN, IN - 1])
def test_convolution_of_a_single_pixel(dtype, out_channels, in_channels, monkeypatch):
    t = _tensors(dtype, (1, 1))
    arguments = (t["input"][:, :in_channels], t["weight"], t["code"], t["bias"])
    options = {"gate": t["gate"], "out_channels": out_channels}
    monkeypatch.setattr(conv_forms, "mix", _must_not_mix)
    ours = KF.kshot_conv2d(*arguments, **options)
    _assert_same(ours, reference.kshot_conv2d(*arguments, **options), list(t.values()))


@pytest.mark.parametrize("stride", [1, 2])
def test_padding_makes_more_than_one_position(stride):
    t = _tensors(torch.float64, (1, 1))
    arguments = (t["input"], t["weight"], t["code"], t["bias"], stride, 1)
    _assert_same(
        KF.kshot_conv2d(*arguments),
        reference.kshot_conv2d(*arguments),
        [t[name] for name in ("input", "weight", "code", "bias")],
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("out_features", [OUT, OUT - 2])
@pytest.mark.parametrize("with_gate", [False, True])
def test_linear(dtype, out_features, with_gate):
    t = _tensors(dtype, ())
    leaves = [tensor for name, tensor in t.items() if with_gate or name != "gate"]
    arguments = (t["input"][:, : IN - 1], t["weight"], t["code"], t["bias"])
    options = {"gate": t["gate"] if with_gate else None, "out_features": out_features}
    _assert_same(KF.kshot_linear(*arguments, **options), reference.kshot_linear(*arguments, **options), leaves)


# Beyond a tile, a panel and a task of every kernel on each side.
@pytest.mark.parametrize("batch", [1, 19])
@pytest.mark.parametrize(("inputs", "outputs"), [(145, 131), (5, 700), (700, 5)])
def test_more_than_one_block(batch, inputs, outputs):
    generator = torch.Generator().manual_seed(0)
    shapes = ((batch, inputs, 1, 1), (3, outputs + 2, inputs + 3, 1, 1), (batch, 3), (outputs + 2,))
    leaves = [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]
    exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
    ours = KF.kshot_conv2d(*leaves, out_channels=outputs)
    expected = reference.kshot_conv2d(*exact, out_channels=outputs)
    grad = torch.randn(ours.shape, generator=generator)
    results = [ours, *torch.autograd.grad(ours, leaves, grad)]
    for own, other in zip(results, [expected, *torch.autograd.grad(expected, exact, grad.double())], strict=True):
        assert (own - other).abs().max() <= 2e-6 * other.abs().max()


@pytest.mark.parametrize("wanted", ["input", "weight", "code"])
def test_gradients_by_themselves(wanted):
    t = _tensors(torch.float32, (1, 1))
    for name in t:
        t[name].requires_grad_(name == wanted)
    arguments = (t["input"], t["weight"], t["code"])
    _assert_same(KF.kshot_conv2d(*arguments), reference.kshot_conv2d(*arguments), [t[wanted]])


def test_empty_batch():
    weight = torch.randn(SHOTS, OUT, IN, 1, 1, requires_grad=True)
    output = KF.kshot_conv2d(torch.zeros(0, IN, 1, 1), weight, torch.zeros(0, SHOTS))
    assert output.shape == (0, OUT, 1, 1)
    output.sum().backward()
    assert torch.equal(weight.grad, torch.zeros_like(weight))
