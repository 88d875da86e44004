"""CUDA kernel of the SGD update, on the emulator, against the equation in float64."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from cuda_emulation import build
from cuda_emulation.dictionaries import DTYPES, Dictionary, assert_close, memory, rounded, sum_dtype
from cuda_emulation.emulation import ORDERS, load, needs_full, share
from torch import Tensor

pytestmark = pytest.mark.skipif(not build.available(), reason="needs GCC on Linux")

BATCHES, BATCH = 9, 6  # launches, and dictionaries of one launch: 216 geometries over the dtypes


@dataclass
class Use:
    """One use of the dictionary, by a narrower layer perhaps."""

    code: Tensor
    gate: Tensor | None
    grad: Tensor  # [C_out', C_in', KH, KW]

    def dense(self, like: Tensor, absolute: bool) -> Tensor:
        """Its part of the dictionary's gradient."""
        grad = self.grad if self.gate is None else self.gate[:, None, None, None] * self.grad
        part = torch.einsum("k,ocyx->kocyx", self.code, grad)
        whole = torch.zeros_like(like)
        whole[:, : grad.shape[0], : grad.shape[1]] = part.abs() if absolute else part
        return whole


class Case:
    """A dictionary, where its gradient comes from, and the settings of the optimiser."""

    def __init__(self, rng: np.random.Generator, dtype: torch.dtype, shots: int) -> None:
        self.dictionary = d = Dictionary.random(rng, dtype, shots)
        sums = sum_dtype(dtype)

        def draw(*shape: int, of: torch.dtype) -> Tensor:
            return rounded(torch.from_numpy(rng.standard_normal(shape)), of)

        _, out_channels, in_channels, *kernel = d.weight.shape
        self.uses = []
        for _ in range(int(rng.choice([0, 1, 1, 2, 3, 7]))):
            narrow = rng.random() < 0.5
            rows = int(rng.integers(1, out_channels + 1)) if narrow else out_channels
            columns = int(rng.integers(1, in_channels + 1)) if narrow and rng.random() < 0.6 else in_channels
            gate = draw(rows, of=sums) if rng.random() < 0.4 else None
            self.uses.append(Use(draw(shots, of=sums), gate, draw(rows, columns, *kernel, of=dtype)))
        self.grad = draw(*d.weight.shape, of=dtype) if not self.uses or rng.random() < 0.3 else None
        self.lr, self.weight_decay = float(rng.choice([0.5, 0.05])), float(rng.choice([0, 0.25]))
        self.momentum = float(rng.choice([0, 0.75]))
        self.nesterov = bool(self.momentum and rng.random() < 0.5)
        self.dampening = 0.0 if self.nesterov else float(rng.choice([0, 0.5]))
        self.buffer = draw(*d.weight.shape, of=dtype) if self.momentum else None
        self.maximize = rng.random() < 0.3

    def job(self) -> tuple:
        """The arguments of the binding."""
        d = self.dictionary
        sums = sum_dtype(d.dtype)
        shape = tuple(d.weight.shape)
        whole_rows = any(u.gate is not None or u.grad.shape != shape[1:] for u in self.uses)
        uses = []
        for use in self.uses:
            _, _, rows, _, run_length, *_ = d.geometry(1, use.grad.shape[0], use.grad.shape[1], whole_rows)
            gate = None if use.gate is None else memory(use.gate, sums)
            uses.append((memory(use.code, sums), gate, d.stored(use.grad), rows, run_length))
        buffer, grad = (None if x is None else d.stored(x) for x in (self.buffer, self.grad))
        settings = (self.lr, self.momentum, self.dampening, self.weight_decay, self.nesterov, self.maximize)
        return (
            DTYPES[d.dtype],
            d.geometry(1, *shape[1:3], whole_rows),
            d.stored(d.weight),
            buffer,
            grad,
            uses,
            *settings,
        )

    def step(self, absolute: bool) -> tuple[Tensor, Tensor | None]:
        """Weight and momentum buffer after the update; or the magnitudes of what adds up to them."""
        weight, buffer, grad = (
            x if x is None or not absolute else x.abs() for x in (self.dictionary.weight, self.buffer, self.grad)
        )
        g = sum((use.dense(weight, absolute) for use in self.uses), torch.zeros_like(weight))
        if grad is not None:
            g = g + grad
        g = (-g if self.maximize and not absolute else g) + self.weight_decay * weight
        if buffer is not None:
            buffer = self.momentum * buffer + (1 - self.dampening) * g
            g = g + self.momentum * buffer if self.nesterov else buffer
        return weight + self.lr * g if absolute else weight - self.lr * g, buffer

    def check(self, results: tuple[np.ndarray, np.ndarray | None]) -> None:
        d = self.dictionary
        for result, expected, magnitude in zip(results, self.step(False), self.step(True)):
            if expected is None:
                assert result is None
            else:
                actual = d.loaded(result, tuple(d.weight.shape))
                assert_close(actual, expected, magnitude, d.dtype, len(self.uses) + 3)


def run(variant: str, order: str, seed: int, dtype: torch.dtype) -> None:
    rng = np.random.default_rng([seed, DTYPES[dtype], 1])
    cases = [Case(rng, dtype, 1 + (seed * BATCH + i) % 16) for i in range(BATCH)]
    module = load("sgd_update", variant)
    with module.schedule(order, seed=seed, shift=int(rng.choice([0, 0, 8]))):
        results = module.sgd_update([case.job() for case in cases])
    for case, result in zip(cases, results):
        case.check(result)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("order", ORDERS)
def test_random_dictionaries(order: str, dtype: torch.dtype) -> None:
    for seed in share(range(BATCHES), order):
        run("plain", order, seed, dtype)


@needs_full
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("variant", "order"), [("asan", "forward"), ("asan", "reverse"), ("tsan", "random")])
def test_memory_and_races(variant: str, order: str, dtype: torch.dtype) -> None:
    for seed in range(100, 103):
        run(variant, order, seed, dtype)


def test_more_dictionaries_and_uses_than_one_launch_holds() -> None:
    rng = np.random.default_rng(11)
    cases = [Case(rng, torch.float32, 3) for _ in range(60)]
    for case, result in zip(cases, load("sgd_update").sgd_update([case.job() for case in cases])):
        case.check(result)
