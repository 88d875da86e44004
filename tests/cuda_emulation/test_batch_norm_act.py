"""CUDA kernels of batch norm, residual and activation, on the emulator, against PyTorch in float64."""

import numpy as np
import pytest
import torch
from cuda_emulation.dictionaries import DTYPES, assert_close, logical, memory, rounded, sum_dtype
from cuda_emulation.emulation import ORDERS, load
from cuda_emulation.selection import needs_emulator, share, under_sanitizers
from torch import Tensor

from kshot_ext.reference.batch_norm_act import ACTIVATIONS

pytestmark = needs_emulator

CASES = 54  # 216 geometries over the dtypes
NAMES = ["identity", "relu", "relu6", "silu", "hardswish"]  # Activation in csrc/cuda/batch_norm_act.h
CORNERS = torch.tensor([-3.0, 0.0, 3.0, 6.0], dtype=torch.float64)  # of the activations


class Case:
    """A tensor [N, P, C] and everything that goes with it."""

    def __init__(self, seed: int, dtype: torch.dtype, sizes: tuple[int, int, int] | None = None) -> None:
        self.rng = rng = np.random.default_rng([seed, DTYPES[dtype], 2])
        self.dtype = dtype
        samples, positions = int(rng.choice([0, 1, 2, 3, 5])), int(rng.choice([1, 2, 7, 16, 49, 70]))
        channels = int(rng.choice([1, 2, 3, 5, 7, 8, 12, 16, 24, 32, 40, 64]))
        if seed % 5 == 0:  # several pieces, some of them in every sample
            samples, channels = int(rng.choice([1, 2, 3])), int(rng.choice([8, 13, 32, 64]))
            positions = int(45000 / samples / channels) + int(rng.integers(0, 5))
        elif seed % 5 == 1:  # several slabs
            samples, channels = int(rng.choice([1, 2])), int(rng.choice([257, 260, 520, 601]))
        samples, positions, channels = sizes or (samples, positions, channels)
        self.seed, self.samples, self.positions, self.channels = seed, samples, positions, channels
        self.shift = int(rng.choice([0, 0, 8]))
        self.eps = 1e-3
        self.activation = NAMES[seed % len(NAMES)] if rng.random() < 0.5 else "relu"
        sums = sum_dtype(dtype)

        self.input = self.draw(samples, positions, channels, of=dtype) * 2 + 0.5
        self.input = rounded(self.input, dtype)
        self.residual = self.draw(samples, positions, channels, of=dtype) if rng.random() < 0.5 else None
        self.weight, self.bias = (
            {"none": None, "shared": self.draw(channels, of=sums), "per sample": self.draw(samples, channels, of=sums)}[
                str(rng.choice(["none", "shared", "per sample"]))
            ]
            for _ in range(2)
        )
        self.per_sample = any(p is not None and p.dim() == 2 for p in (self.weight, self.bias))
        self.training = bool(rng.random() < 0.6) and samples > 0
        if self.training:
            flat = self.input.reshape(-1, channels)
            self.mean, self.variance = rounded(flat.mean(0), sums), rounded(flat.var(0, correction=0), sums)
        else:
            self.mean, self.variance = (
                self.draw(channels, of=sums),
                rounded(self.draw(channels, of=sums) ** 2 + 0.1, sums),
            )

    def draw(self, *shape: int, of: torch.dtype) -> Tensor:
        return rounded(torch.from_numpy(self.rng.standard_normal(shape)), of)

    def elements(self, values: Tensor | None) -> np.ndarray | None:
        """As the kernels get it: [N * P, C]."""
        return None if values is None else memory(values, self.dtype).reshape(-1, self.channels)

    def problem(self) -> tuple:
        """The arguments of the binding."""
        sums = sum_dtype(self.dtype)
        parameters = [
            None if p is None else memory(p, sums).reshape(tuple(p.shape))
            for p in (self.mean, self.variance, self.weight, self.bias)
        ]
        samples = self.samples if self.per_sample else 1
        activation = NAMES.index(self.activation)
        tensors = self.elements(self.input), self.elements(self.residual)
        return DTYPES[self.dtype], activation, samples, self.eps, *tensors, *parameters

    def affine(self, parameter: Tensor | None, otherwise: float) -> Tensor:
        """[N, 1, C] or [1, 1, C]"""
        if parameter is None:
            return torch.full((1, 1, self.channels), otherwise, dtype=torch.float64)
        return parameter.reshape(-1, 1, self.channels)

    def argument(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The activation's argument, by the batch's own statistics in training; and the normalised input."""
        mean, variance = self.mean, self.variance
        if self.training:
            flat = x.reshape(-1, self.channels)
            mean, variance = flat.mean(0), flat.var(0, correction=0)
        normalised = (x - mean) / torch.sqrt(variance + self.eps)
        z = normalised * self.affine(self.weight, 1) + self.affine(self.bias, 0)
        return z if self.residual is None else z + self.residual, normalised

    def magnitude(self) -> Tensor:
        """Of what adds up to the activation's argument."""
        factor = (self.affine(self.weight, 1) / torch.sqrt(self.variance + self.eps)).abs()
        whole = (self.input.abs() + self.mean.abs()) * factor + self.affine(self.bias, 0).abs()
        return whole if self.residual is None else whole + self.residual.abs()


def check_forward(case: Case, module) -> None:
    z, _ = case.argument(case.input)
    expected = ACTIVATIONS[case.activation](z)
    magnitude = case.magnitude()
    if case.activation in ("silu", "hardswish"):  # slopes of up to 1.1, and a product
        magnitude = magnitude * 1.2
    actual = logical(module.forward(case.problem()), case.dtype, tuple(z.shape))
    assert_close(actual, expected, magnitude, case.dtype, 10)


def check_backward(case: Case, module) -> None:
    x = case.input.clone().requires_grad_()
    z, normalised = case.argument(x)
    z.retain_grad()
    grad = case.draw(*z.shape, of=case.dtype)
    # Beside a corner rounding may choose the other slope.
    near = (z.detach()[..., None] - CORNERS).abs().amin(-1) < 1e-3 + 1e-4 * case.magnitude()
    grad[near] = 0
    ACTIVATIONS[case.activation](z).backward(grad)
    normalised = normalised.detach()
    need_residual = case.residual is not None
    results = module.backward(case.problem(), case.elements(grad), case.training, need_residual)
    sums, grad_input, grad_residual = results
    assert (grad_residual is not None) == need_residual

    g, weight = z.grad, case.affine(case.weight, 1)
    steep = grad.abs() * 1.2 * (1 + 0.5 * case.magnitude())  # |activation''| <= 0.5 lets errors of z through
    deviation = 1 / torch.sqrt(case.variance + case.eps)
    spread = normalised.abs() + case.mean.abs() * deviation
    over = (1,) if case.per_sample else (0, 1)
    count = case.positions if case.per_sample else case.positions * case.samples
    for i, (expected, magnitude) in enumerate([(g, steep), (g * normalised, steep * spread)]):
        actual = torch.from_numpy(sums[:, i]).double()
        wanted, size = (t.sum(over).reshape(actual.shape) for t in (expected, magnitude))
        assert_close(actual, wanted, size, sum_dtype(case.dtype), count)

    inner = (weight * steep).abs()
    if case.training:
        of_mean, of_normalised = inner.mean((0, 1)), (inner * spread).mean((0, 1))
        inner = inner + of_mean + spread * of_normalised
    actual = logical(grad_input, case.dtype, tuple(x.shape))
    assert_close(actual, x.grad, inner * deviation, case.dtype, case.positions * case.samples)
    if need_residual:
        assert_close(logical(grad_residual, case.dtype, tuple(x.shape)), g, steep, case.dtype, 10)


def run(variant: str, order: str, seed: int, dtype: torch.dtype) -> None:
    case = Case(seed, dtype)
    module = load("batch_norm_act", variant)
    with module.schedule(order, seed=seed, shift=case.shift):
        check_forward(case, module)
        check_backward(case, module)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("order", ORDERS)
def test_random_tensors(order: str, dtype: torch.dtype) -> None:
    for seed in share(range(CASES), order):
        run("plain", order, seed, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@under_sanitizers
def test_memory_and_races(variant: str, order: str, dtype: torch.dtype) -> None:
    for seed in range(100, 105):  # each kind of sizes once
        run(variant, order, seed, dtype)
        check_moments(variant, order, seed, dtype)


def check_moments(
    variant: str, order: str, seed: int, dtype: torch.dtype, sizes: tuple[int, int, int] | None = None
) -> None:
    """A mean far from zero: what cancels shows."""
    case = Case(seed, dtype, sizes)
    x = rounded(case.input + 1000 * (seed % 3), dtype).reshape(-1, case.channels)
    module = load("batch_norm_act", variant)
    with module.schedule(order, seed=seed, shift=case.shift):
        results = module.moments(DTYPES[dtype], memory(x, dtype).reshape(-1, case.channels))
    mean, variance = (torch.from_numpy(result).double() for result in results)
    if x.shape[0] == 0:
        assert not mean.any()
        assert not variance.any()
        return
    sums = sum_dtype(dtype)
    assert_close(mean, x.mean(0), x.abs().mean(0), sums, 1)
    spread = x.var(0, correction=0)
    assert_close(
        variance,
        spread,
        spread + x.mean(0).abs() * spread.sqrt() + torch.finfo(sums).eps * x.abs().amax(0) ** 2,
        sums,
        100_000,  # the reference rounds as well
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("order", ORDERS)
def test_moments(order: str, dtype: torch.dtype) -> None:
    for seed in share(range(CASES), order):
        check_moments("plain", order, seed, dtype)


def test_not_a_number_stays() -> None:
    module = load("batch_norm_act")
    x = np.array([[np.nan, 1.0, -1.0, 0.5]], dtype=np.float32)
    one = np.ones(4, dtype=np.float32)
    for activation in range(len(NAMES)):
        problem = (0, activation, 1, 0.0, x, None, 0 * one, one, None, None)
        assert np.isnan(module.forward(problem)[0]).tolist() == [True, False, False, False]


def test_more_pieces_than_one_thread_joins() -> None:
    """The second stages go through many pieces in several rounds."""
    sizes, dtype = (1, 81 * 2048 + 5, 8), torch.bfloat16
    check_moments("plain", "forward", 2, dtype, sizes)
    case = Case(2, dtype, sizes)
    check_backward(case, load("batch_norm_act"))
