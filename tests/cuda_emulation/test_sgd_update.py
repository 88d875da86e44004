"""CUDA kernel of the SGD update, on the emulator, against the equation in float64."""

import numpy as np
import pytest
import torch
from cuda_emulation.dictionaries import DTYPES
from cuda_emulation.emulation import ORDERS
from cuda_emulation.selection import needs_emulator, share, under_sanitizers
from cuda_emulation.update_cases import BATCHES, Case, run, run_many
from torch import Tensor

pytestmark = needs_emulator


class SgdCase(Case):
    def __init__(self, rng: np.random.Generator, dtype: torch.dtype, shots: int) -> None:
        super().__init__(rng, dtype, shots)
        self.lr, self.weight_decay = float(rng.choice([0.5, 0.05])), float(rng.choice([0, 0.25]))
        self.momentum = float(rng.choice([0, 0.75]))
        self.nesterov = bool(self.momentum and rng.random() < 0.5)
        self.dampening = 0.0 if self.nesterov else float(rng.choice([0, 0.5]))
        self.states = [self.like_weight() if self.momentum else None]
        self.settings = self.lr, self.momentum, self.dampening, self.weight_decay, self.nesterov

    def expected(self) -> list[tuple[Tensor | None, Tensor | None]]:
        return list(zip(self.step(False), self.step(True)))

    def step(self, absolute: bool) -> tuple[Tensor, Tensor | None]:
        weight, buffer = (x if x is None or not absolute else x.abs() for x in (self.dictionary.weight, self.states[0]))
        g = self.gradient(absolute) + self.weight_decay * weight
        if buffer is not None:
            buffer = self.momentum * buffer + (1 - self.dampening) * g
            g = g + self.momentum * buffer if self.nesterov else buffer
        return weight + self.lr * g if absolute else weight - self.lr * g, buffer


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("order", ORDERS)
def test_random_dictionaries(order: str, dtype: torch.dtype) -> None:
    for seed in share(range(BATCHES), order):
        run(SgdCase, "sgd_update", "plain", order, seed, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@under_sanitizers
def test_memory_and_races(variant: str, order: str, dtype: torch.dtype) -> None:
    for seed in range(100, 103):
        run(SgdCase, "sgd_update", variant, order, seed, dtype)


def test_more_dictionaries_and_uses_than_one_launch_holds() -> None:
    run_many(SgdCase, "sgd_update")
