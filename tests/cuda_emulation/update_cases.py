"""Dictionaries with gradients for the tests of the optimisers' kernels, and these tests."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from cuda_emulation.dictionaries import DTYPES, Dictionary, assert_close, memory, rounded, sum_dtype
from cuda_emulation.emulation import load
from torch import Tensor

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


class Case(ABC):
    """A dictionary, where its gradient comes from, and the settings of the optimiser."""

    states: list[Tensor | None]
    settings: Sequence[float]  # of the binding

    def __init__(self, rng: np.random.Generator, dtype: torch.dtype, shots: int) -> None:
        self.dictionary = d = Dictionary.random(rng, dtype, shots)
        self.rng, sums = rng, sum_dtype(dtype)
        _, out_channels, in_channels, *kernel = d.weight.shape
        self.uses = []
        for _ in range(int(rng.choice([0, 1, 1, 2, 3, 7]))):
            narrow = rng.random() < 0.5
            rows = int(rng.integers(1, out_channels + 1)) if narrow else out_channels
            columns = int(rng.integers(1, in_channels + 1)) if narrow and rng.random() < 0.6 else in_channels
            gate = self.draw(rows, of=sums) if rng.random() < 0.4 else None
            self.uses.append(Use(self.draw(shots, of=sums), gate, self.draw(rows, columns, *kernel, of=dtype)))
        self.grad = self.like_weight() if not self.uses or rng.random() < 0.3 else None
        self.maximize = bool(rng.random() < 0.3)

    def draw(self, *shape: int, of: torch.dtype) -> Tensor:
        return rounded(torch.from_numpy(self.rng.standard_normal(shape)), of)

    def like_weight(self) -> Tensor:
        return self.draw(*self.dictionary.weight.shape, of=self.dictionary.dtype)

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
        *states, grad = (None if x is None else d.stored(x) for x in (*self.states, self.grad))
        geometry = d.geometry(1, *shape[1:3], whole_rows)
        weight = d.stored(d.weight)
        return DTYPES[d.dtype], geometry, weight, tuple(states), grad, uses, self.maximize, list(self.settings)

    def gradient(self, absolute: bool = False) -> Tensor:
        """The dense gradient, upwards to maximize; or the magnitudes of what adds up to it."""
        weight, grad = self.dictionary.weight, self.grad
        g = sum((use.dense(weight, absolute) for use in self.uses), torch.zeros_like(weight))
        if grad is not None:
            g = g + (grad.abs() if absolute else grad)
        return -g if self.maximize and not absolute else g

    @abstractmethod
    def expected(self) -> list[tuple[Tensor | None, Tensor | None]]:
        """Weight and states after the update, each with the magnitudes of what adds up to it."""

    def check(self, results: list[np.ndarray | None]) -> None:
        d, expected = self.dictionary, self.expected()
        assert len(results) == len(expected)
        for result, (value, magnitude) in zip(results, expected):
            if value is None:
                assert result is None
            else:
                actual = d.loaded(result, tuple(d.weight.shape))
                assert_close(actual, value, magnitude, d.dtype, len(self.uses) + 3)


def run(kind: type[Case], operator: str, variant: str, order: str, seed: int, dtype: torch.dtype) -> None:
    """One launch, on dictionaries of that kind of case."""
    rng = np.random.default_rng([seed, DTYPES[dtype], 1])
    cases = [kind(rng, dtype, 1 + (seed * BATCH + i) % 16) for i in range(BATCH)]
    module = load(operator, variant)
    with module.schedule(order, seed=seed, shift=int(rng.choice([0, 0, 8]))):
        results = getattr(module, operator)([case.job() for case in cases])
    for case, result in zip(cases, results):
        case.check(result)


def run_many(kind: type[Case], operator: str) -> None:
    """More dictionaries and uses than one launch holds."""
    rng = np.random.default_rng(11)
    cases = [kind(rng, torch.float32, 3) for _ in range(60)]
    for case, result in zip(cases, getattr(load(operator), operator)([case.job() for case in cases])):
        case.check(result)
