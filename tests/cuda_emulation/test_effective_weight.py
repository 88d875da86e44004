"""CUDA kernels of the effective weight, on the emulator, against the equation in float64."""

import numpy as np
import pytest
import torch
from cuda_emulation.dictionaries import DTYPES, Dictionary, assert_close, memory, sum_dtype
from cuda_emulation.emulation import ORDERS, load
from cuda_emulation.selection import needs_emulator, needs_full, share, under_sanitizers
from torch import Tensor

pytestmark = needs_emulator

BATCHES, BATCH = 9, 6  # launches, and dictionaries of one launch: 216 geometries over the dtypes


class Case:
    """A dictionary, its code and gate, and a gradient of the effective weight."""

    def __init__(self, rng: np.random.Generator, dtype: torch.dtype, shots: int, samples: int | None) -> None:
        self.dictionary = Dictionary.random(rng, dtype, shots)
        self.samples = samples
        rows, sums = self.dictionary.out_channels, sum_dtype(dtype)
        per_sample = () if samples is None else (samples,)

        def draw(*shape: int, of: torch.dtype) -> Tensor:
            return torch.from_numpy(rng.standard_normal(shape)).to(of).double()

        self.code = draw(*per_sample, shots, of=sums)
        gate_shape = rng.choice(["none", "shared", "per sample"])
        self.gate = (
            None if gate_shape == "none" else draw(*(per_sample if gate_shape == "per sample" else ()), rows, of=sums)
        )
        self.grad = draw(*per_sample, *self.dictionary.active.shape[1:], of=dtype)
        self.needs = [bool(rng.random() < 0.8) for _ in range(3)]
        if not any(self.needs):
            self.needs[1] = True
        self.needs[2] &= self.gate is not None

    def mixing(self) -> tuple:
        """The arguments of the binding."""
        d = self.dictionary
        sums = sum_dtype(d.dtype)
        samples = 1 if self.samples is None else self.samples
        geometry = d.geometry(samples, d.out_channels, d.in_channels, self.gate is not None)
        gate = None if self.gate is None else memory(self.gate, sums)
        stride = 0 if self.gate is None or self.gate.dim() == 1 else d.out_channels
        return DTYPES[d.dtype], geometry, d.stored(d.weight), memory(self.code, sums), gate, stride

    def effective(self, weight: Tensor, code: Tensor, gate: Tensor | None) -> Tensor:
        """The equation."""
        mixed = torch.einsum("...k,kocyx->...ocyx", code, weight)
        return mixed if gate is None else mixed * gate[..., None, None, None]

    def check_forward(self, result: np.ndarray) -> None:
        d = self.dictionary
        expected = self.effective(d.active, self.code, self.gate)
        magnitude = self.effective(d.active.abs(), self.code.abs(), None if self.gate is None else self.gate.abs())
        assert_close(d.loaded(result, tuple(expected.shape)), expected, magnitude, d.dtype, d.shots)

    def gradients(self, absolute: bool) -> list[Tensor | None]:
        """Of the whole weight, of code and gate; with absolute values in place of all numbers: their magnitudes."""
        d = self.dictionary
        operands = [d.weight, self.code, self.gate, self.grad]
        weight, code, gate, grad = (None if x is None else x.abs() if absolute else x.clone() for x in operands)
        wanted = [x for x in (weight, code, gate) if x is not None]
        for x in wanted:
            x.requires_grad_()
        active = weight[:, : d.out_channels, : d.in_channels]
        found = list(torch.autograd.grad(self.effective(active, code, gate), wanted, grad))
        return [*found, None][:3]

    def check_backward(self, results: tuple[np.ndarray | None, ...], check_code: bool = True) -> None:
        d = self.dictionary
        samples = self.samples or 1
        elements = d.active[0].numel()
        row = max(1, elements // d.out_channels) * d.shots * (samples if self.samples else 1)
        expected, magnitudes = self.gradients(False), self.gradients(True)
        if results[0] is not None:
            actual = d.loaded(results[0], tuple(d.weight.shape))
            assert_close(actual, expected[0], magnitudes[0], d.dtype, samples)
        sums = sum_dtype(d.dtype)
        if results[1] is not None and check_code:
            actual = torch.from_numpy(results[1]).double().reshape(self.code.shape)
            assert_close(actual, expected[1], magnitudes[1], sums, elements)
        if results[2] is not None:
            actual = torch.from_numpy(results[2]).double().reshape(self.gate.shape)
            assert_close(actual, expected[2], magnitudes[2], sums, row)
        assert [r is not None for r in results] == self.needs


def batch(seed: int, dtype: torch.dtype) -> tuple[list[Case], int]:
    """Dictionaries of one launch, some with a code per sample; and by how many bytes buffers are off alignment."""
    rng = np.random.default_rng([seed, DTYPES[dtype]])
    cases = []
    for i in range(BATCH):
        shots = 1 + (seed * BATCH + i) % 16 if rng.random() < 0.9 else int(rng.integers(17, 40))
        samples = None if rng.random() < 0.5 else int(rng.choice([0, 1, 2, 3, 5, 9, 34]))
        cases.append(Case(rng, dtype, shots, samples))
    return cases, int(rng.choice([0, 0, 8]))


def run(variant: str, order: str, seed: int, dtype: torch.dtype) -> None:
    module = load("effective_weight", variant)
    cases, shift = batch(seed, dtype)
    jobs = [case.mixing() for case in cases]
    backward = [(job, c.dictionary.stored(c.grad), *c.needs) for job, c in zip(jobs, cases)]
    with module.schedule(order, seed=seed, shift=shift):
        effective = module.effective_weight(jobs)
        gradients = module.effective_weight_backward(backward, False)
    for case, result, results in zip(cases, effective, gradients):
        case.check_forward(result)
        case.check_backward(results)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("order", ORDERS)
def test_random_dictionaries(order: str, dtype: torch.dtype) -> None:
    for seed in share(range(BATCHES), order):
        run("plain", order, seed, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@under_sanitizers
def test_memory_and_races(variant: str, order: str, dtype: torch.dtype) -> None:
    for seed in range(100, 103):
        run(variant, order, seed, dtype)


@pytest.mark.long
def test_copies_about_as_many_as_shared_memory_holds() -> None:
    """16 of a code per sample are put into shared memory, and not one more: only the sanitizer sees its end."""
    module = load("effective_weight", "asan")
    for shots in (15, 16, 17, 32, 33):
        case = Case(np.random.default_rng(0), torch.float32, shots, 5)
        weight = torch.randn(shots, 24, 24, 1, 1, generator=torch.Generator().manual_seed(0)).double()
        case.dictionary = Dictionary(weight, torch.float32, False, 24, 24)
        case.gate = None
        case.check_forward(module.effective_weight([case.mixing()])[0])


@pytest.mark.long
def test_a_copy_that_begins_beyond_32_bits() -> None:
    """Takes 9 GB of memory: the emulator's device memory has every byte of the dictionary."""
    length, far = 64, 2**31
    weight = np.zeros(far + length, np.float16)
    rows = torch.randn(2, length, generator=torch.Generator().manual_seed(0)).half()
    weight[:length], weight[far:] = rows.numpy()
    for samples in (1, 2):
        code = np.arange(1, 2 * samples + 1, dtype=np.float32).reshape(samples, 2)
        geometry = [2, samples, 1, 1, length, length, far, length, 0, length]
        [mixed] = load("effective_weight").effective_weight([(DTYPES[torch.float16], geometry, weight, code, None, 0)])
        expected = torch.from_numpy(code).double() @ rows.double()
        torch.testing.assert_close(torch.from_numpy(mixed).double(), expected, rtol=2**-9, atol=2**-9)


@pytest.mark.parametrize("samples", [None, 3])
def test_one_code_for_many_dictionaries(samples: int | None) -> None:
    """More dictionaries than the parameters of one launch hold; their gradients of the code are added up."""
    rng = np.random.default_rng(7)
    cases = [Case(rng, torch.float32, 4, samples) for _ in range(70)]
    for case in cases:
        case.code, case.needs[1] = cases[0].code, True
    module = load("effective_weight")
    jobs = [case.mixing() for case in cases]
    for case, result in zip(cases, module.effective_weight(jobs)):
        case.check_forward(result)
    backward = [(job, c.dictionary.stored(c.grad), *c.needs) for job, c in zip(jobs, cases)]
    gradients = module.effective_weight_backward(backward, True)
    for case, results in zip(cases, gradients):
        case.check_backward(results, check_code=False)
    expected, magnitude = (sum(case.gradients(absolute)[1] for case in cases) for absolute in (False, True))
    actual = torch.from_numpy(gradients[0][1]).double().reshape(expected.shape)
    assert_close(actual, expected, magnitude, torch.float32, 70 * 5000)


@pytest.mark.parametrize("variant", ["plain", pytest.param("asan", marks=needs_full)])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shots", [16, 17, 33])
def test_codes_per_sample_on_either_side_of_the_stash(shots: int, dtype: torch.dtype, variant: str) -> None:
    """16 copies are kept in shared memory for the samples, and no more: one too many lies outside of it."""
    rng = np.random.default_rng(shots)
    cases = [Case(rng, dtype, shots, samples) for samples in (1, 5)]
    module = load("effective_weight", variant)
    for case, result in zip(cases, module.effective_weight([case.mixing() for case in cases])):
        case.check_forward(result)


def test_results_do_not_depend_on_the_order() -> None:
    """Sums are cut by sizes alone."""
    module = load("effective_weight")
    cases, _ = batch(3, torch.float32)
    backward = [(c.mixing(), c.dictionary.stored(c.grad), *c.needs) for c in cases]
    first, *others = [_in_order(module, order, backward) for order in ORDERS]
    for other in others:
        for a, b in zip(first, other):
            for x, y in zip(a, b):
                assert x is None or np.array_equal(x, y)


def _in_order(module, order: str, backward: list) -> list:
    with module.schedule(order, seed=5):
        return module.effective_weight_backward(backward, False)
