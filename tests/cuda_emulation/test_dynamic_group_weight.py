"""CUDA kernels of the effective weight under a dynamic grouping, on the emulator, against the equation in float64."""

import numpy as np
import pytest
import torch
from cuda_emulation.dictionaries import DTYPES, Dictionary, assert_close, memory, rounded, sum_dtype
from cuda_emulation.emulation import ORDERS, load
from cuda_emulation.selection import needs_emulator, share, under_sanitizers
from torch import Tensor

pytestmark = needs_emulator

CASES = 15  # of each dtype


class Case:
    """A dictionary, its code and gates, and a gradient of the effective weight."""

    def __init__(self, seed: int, dtype: torch.dtype) -> None:
        rng = np.random.default_rng(seed)
        gates = int(rng.integers(0, 5))
        rows, columns = (int(rng.choice([1, 1, 2, 3, 5])) for _ in range(2))
        kernel = int(rng.choice([1, 2, 3]))
        shape = (int(rng.integers(1, 20)), rows << gates, columns << gates, kernel, kernel)
        samples = None if rng.random() < 0.5 else int(rng.choice([0, 1, 2, 5]))
        weight = rounded(torch.from_numpy(rng.standard_normal(shape)), dtype)
        self.dictionary = Dictionary(weight, dtype, bool(rng.random() < 0.5) and kernel > 1, *shape[1:3])
        per_sample = () if samples is None else (samples,)
        self.samples = 1 if samples is None else samples

        def draw(*size: int, of: torch.dtype) -> Tensor:
            return rounded(torch.from_numpy(rng.standard_normal(size)), of)

        self.code = draw(*per_sample, shape[0], of=sum_dtype(dtype))
        self.gates = torch.from_numpy(rng.integers(0, 2, gates)).double()
        if rng.random() < 0.3 and gates:
            self.gates[int(rng.integers(gates))] = 0.75
        self.grad = draw(*per_sample, *shape[1:], of=dtype)
        self.needs = [bool(rng.random() < 0.8) for _ in range(3)]

    def job(self) -> tuple:
        d, sums = self.dictionary, sum_dtype(self.dictionary.dtype)
        geometry = d.geometry(self.samples, d.out_channels, d.in_channels, True)
        blocks = 1 << len(self.gates)
        code, gates = memory(self.code, sums), memory(self.gates, sums)
        return (
            DTYPES[d.dtype],
            geometry,
            d.stored(d.weight),
            code,
            gates,
            d.out_channels // blocks,
            geometry[4] // blocks,
        )

    def relation(self, gates: Tensor) -> Tensor:
        """The product of the gates of those bits in which the blocks of two channels differ."""
        d, count = self.dictionary, len(gates)
        rows, columns = (torch.arange(size) // (size >> count) for size in (d.out_channels, d.in_channels))
        relation = torch.ones(d.out_channels, d.in_channels, dtype=torch.float64)
        for j, gate in enumerate(gates):
            differs = ((rows[:, None] ^ columns) >> (count - 1 - j)) & 1 == 1
            relation = torch.where(differs, gate * relation, relation)
        return relation[..., None, None]

    def effective(self, weight: Tensor, code: Tensor, gates: Tensor) -> Tensor:
        return self.relation(gates) * torch.einsum("...k,kocyx->...ocyx", code, weight)

    def operands(self, absolute: bool) -> list[Tensor]:
        operands = [self.dictionary.weight, self.code, self.gates, self.grad]
        return [x.abs() if absolute else x.clone() for x in operands]

    def gradients(self, absolute: bool) -> list[Tensor]:
        """With absolute values in place of all numbers: their magnitudes."""
        *wanted, grad = self.operands(absolute)
        for x in wanted:
            x.requires_grad_()
        found = torch.autograd.grad(self.effective(*wanted), wanted, grad, allow_unused=True)
        return [torch.zeros_like(x) if gradient is None else gradient for x, gradient in zip(wanted, found)]


def run(variant: str, order: str, seed: int, dtype: torch.dtype) -> None:
    case, module = Case(seed, dtype), load("dynamic_group_weight", variant)
    d, sums = case.dictionary, sum_dtype(dtype)
    with module.schedule(order, seed=seed, shift=8 if seed % 3 == 0 else 0):
        effective = module.dynamic_group_weight(case.job())
        gradients = module.dynamic_group_weight_backward(case.job(), d.stored(case.grad), *case.needs)
    expected, magnitude = (case.effective(*case.operands(absolute)[:3]) for absolute in (False, True))
    assert_close(d.loaded(effective, tuple(expected.shape)), expected, magnitude, dtype, d.shots)
    elements = d.weight[0].numel() * case.samples
    terms = (case.samples, elements, elements * d.shots)
    for needed, actual, right, size, count, name in zip(
        case.needs, gradients, case.gradients(False), case.gradients(True), terms, ("weight", "code", "gates")
    ):
        if not needed:
            assert actual is None
        elif name == "weight":
            assert_close(d.loaded(actual, tuple(d.weight.shape)), right, size, dtype, count)
        else:
            assert_close(torch.from_numpy(actual).double().reshape(right.shape), right, size, sums, count)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("order", ORDERS)
def test_random_groupings(order: str, dtype: torch.dtype) -> None:
    for seed in share(range(CASES), order):
        run("plain", order, seed, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@under_sanitizers
def test_memory_and_races(variant: str, order: str, dtype: torch.dtype) -> None:
    for seed in range(100, 106):
        run(variant, order, seed, dtype)


def test_numbers_that_are_left_out_do_not_matter() -> None:
    """NaN in place of all connections between the groups, and of all that two gates of zero leave out."""
    module, gates = load("dynamic_group_weight"), torch.tensor([0.0, 1.0, 0.0])
    case = Case(0, torch.float32)
    weight = torch.randn(3, 8, 16, 1, 1, generator=torch.Generator().manual_seed(0)).double()
    case.dictionary, case.gates, case.samples = Dictionary(weight, torch.float32, False, 8, 16), gates.double(), 1
    case.code, case.grad = torch.tensor([0.5, -1.0, 2.0]).double(), torch.ones(8, 16, 1, 1).double()
    right, gradients = case.effective(*case.operands(False)[:3]), case.gradients(False)
    halves = torch.where(gates == 0, 0.5, 1.0).double()
    closed = case.relation(halves).broadcast_to(right.shape)
    spoilt = weight.masked_fill((case.relation(gates) == 0).broadcast_to(right.shape), torch.nan)
    case.dictionary = Dictionary(spoilt, torch.float32, False, 8, 16)
    effective = module.dynamic_group_weight(case.job())
    assert_close(case.dictionary.loaded(effective, (8, 16, 1, 1)), right, right.abs(), torch.float32, 3)
    results = module.dynamic_group_weight_backward(case.job(), case.dictionary.stored(case.grad), True, True, False)
    assert_close(
        case.dictionary.loaded(results[0], (3, 8, 16, 1, 1)), gradients[0], gradients[0].abs(), torch.float32, 1
    )
    assert np.isfinite(results[1]).all()
    both = closed == 0.25  # the two gates of zero differ
    case.dictionary = Dictionary(weight.masked_fill(both, torch.nan), torch.float32, False, 8, 16)
    results = module.dynamic_group_weight_backward(case.job(), case.dictionary.stored(case.grad), False, False, True)
    assert both.any()
    assert np.isfinite(results[2]).all()
