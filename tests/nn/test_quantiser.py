"""The quantiser against values worked out by hand, and its gradient."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
import torch
from torch import nn

from kshot_ext.nn.quantiser import _CLIPPED_AT, quantise_activation, quantise_weight


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_weights_by_hand():
    # Root mean squares 1 and 2, so with 2 bits the levels are 0 and 1.224, and 0 and 2.448, of either sign.
    weight = torch.tensor([[1.0, -1.0, 1.0, -1.0], [2.0, -3.0, 1.0, math.sqrt(2)]])
    expected = torch.tensor([[1.224, -1.224, 1.224, -1.224], [2.448, -2.448, 0.0, 2.448]])
    torch.testing.assert_close(quantise_weight(weight, 2, inner_dims=1), expected)
    # 3 bits: levels at multiples of 1.9523 / 3 = 0.650767 of the root mean square, as far as three of them.
    weight = torch.tensor([[0.3, -0.4, 0.9, 1.7]])  # mean of squares 3.95 / 4, its root 0.993730
    step = 0.650767 * 0.993730
    expected = torch.tensor([[0.0, -step, step, 3 * step]])  # 0.46, 0.62, 1.39 and 2.63 steps
    torch.testing.assert_close(quantise_weight(weight, 3, inner_dims=1), expected, rtol=1e-5, atol=0)


def test_activations_by_hand():
    rows = torch.tensor([[0.0, 1.0, 2.0, 3.0], [-1.0, 1.0, 1.0, -1.0], [0.0, 0.0, 0.0, 0.0]])
    step = 1.9523 * math.sqrt(2) * math.sqrt(14 / 4) / 3  # 1.7218: no negative value, so levels 0, 1, 2 and 3
    expected = torch.tensor([[0.0, step, step, 2 * step], [-1.224, 1.224, 1.224, -1.224], [0.0] * 4])
    torch.testing.assert_close(quantise_activation(rows, 2, inner_dims=1), expected)


@pytest.mark.parametrize("bits", range(2, 9))
def test_number_of_levels(bits):
    values = torch.linspace(-1, 1, 20_001)[None] ** 9  # few large ones, so that the outermost levels are reached
    for quantised, most in (
        (quantise_weight(values, bits, 1), 2**bits - 1),
        (quantise_activation(values, bits, 1), 2**bits - 1),
        (quantise_activation(values.relu(), bits, 1), 2**bits),
    ):
        found = quantised.unique()
        assert len(found) == most
        torch.testing.assert_close(found.diff(), found.diff()[:1].expand(most - 1), rtol=1e-3, atol=0)


def test_clipping_constants_lose_least():
    """Against the expected squared error, integrated over fine strips of the normal distribution."""
    values = np.linspace(-8, 8, 160_001)
    density = np.exp(-(values**2) / 2)
    density /= density.sum()

    def loss(clipped_at: float, most: int) -> float:
        step = clipped_at / most
        level = np.clip(np.round(values / step), -most, most) * step
        return float(density @ (values - level) ** 2)

    for bits, constant in _CLIPPED_AT.items():
        most = 2 ** (bits - 1) - 1
        assert loss(constant, most) < min(loss(constant * 0.995, most), loss(constant * 1.005, most))


def test_few_bits_lose_as_much_as_theory_says():
    """The mean squared errors of Max's optimal even quantisers with a level at zero: 0.19 for 3 levels, 0.047 for 7."""
    values = torch.randn(1, 200_000, generator=seeded(0))
    for bits, expected in ((2, 0.1902), (3, 0.0469), (4, 0.01289)):
        for quantised in (quantise_weight(values, bits, inner_dims=1), quantise_activation(values, bits, inner_dims=1)):
            assert float((quantised - values).square().mean()) == pytest.approx(expected, rel=0.03)


def test_the_gradient_passes_straight_through_and_stops_at_the_ends():
    values = torch.tensor([[0.0, 0.4, -0.9, 1.1, -3.0, 4.0]], requires_grad=True)  # rms 2.1, clipped at 2.6
    factors = torch.tensor([[1.0, -2.0, 3.0, 4.0, 5.0, 6.0]])
    within = torch.tensor([[1.0, -2.0, 3.0, 4.0, 0.0, 0.0]])
    for quantise in (quantise_weight, quantise_activation):
        (gradient,) = torch.autograd.grad((quantise(values, 2, 1) * factors).sum(), values)
        torch.testing.assert_close(gradient, within, rtol=0, atol=0)
    positive = torch.tensor([[0.0, 0.1, 0.1, 0.1, 9.0, 0.1]], requires_grad=True)  # rms 3.7, clipped at 10.1
    (gradient,) = torch.autograd.grad((quantise_activation(positive, 2, 1) * factors).sum(), positive)
    torch.testing.assert_close(gradient, factors, rtol=0, atol=0)
    many = torch.cat([torch.full((1, 99), 0.1), torch.tensor([[9.0]])], 1).requires_grad_()  # rms 0.9, clipped at 2.5
    (gradient,) = torch.autograd.grad(quantise_activation(many, 2, 1).sum(), many)
    assert gradient.flatten().tolist() == [1.0] * 99 + [0.0]


def test_a_sample_does_not_depend_on_those_around_it():
    batch = torch.randn(4, 3, 5, 5, generator=seeded(0)) * torch.tensor([1.0, 9.0, 0.1, 2.0]).view(4, 1, 1, 1)
    whole = quantise_activation(batch, 4)
    for image, quantised in zip(batch, whole):
        assert torch.equal(quantise_activation(image[None], 4)[0], quantised)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_dtypes(dtype):
    values = (200 * torch.randn(3, 2, 4, 4, generator=seeded(0))).to(dtype)  # squares beyond float16
    for quantise in (quantise_weight, quantise_activation):
        quantised = quantise(values, 3)
        assert quantised.dtype == dtype
        alike = torch.isclose(quantised.float(), quantise(values.float(), 3), rtol=2e-2)
        assert alike.float().mean() > 0.95  # a rounded step moves the borders between levels


def test_graphs_of_it_are_plain_torch():
    class Both(nn.Module):
        def forward(self, values):
            return quantise_activation(values, 4) + quantise_weight(values, 3)

    values = torch.randn(2, 3, 4, 4, generator=seeded(0))
    traced = torch.fx.symbolic_trace(Both())
    file = io.BytesIO()
    torch.save(traced, file)
    assert b"kshot_ext" not in file.getvalue().replace(b"tests", b"")
    assert torch.equal(traced(values), Both()(values))
    compiled = torch.compile(traced, backend="aot_eager")
    torch.testing.assert_close(compiled(values), traced(values))


@pytest.mark.parametrize("bits", [1, 9, 2.0, True, "4"])
def test_illegal_bits(bits):
    with pytest.raises(ValueError, match="bits: expected a whole number of bits from 2 to 8, got"):
        quantise_weight(torch.ones(1, 1, 1, 1), bits)
