"""CUDA kernel of the AdamW update, on the emulator, against the equation in float64."""

import numpy as np
import pytest
import torch
from cuda_emulation.dictionaries import DTYPES
from cuda_emulation.emulation import ORDERS
from cuda_emulation.selection import needs_emulator, share, under_sanitizers
from cuda_emulation.update_cases import BATCHES, Case, run, run_many
from torch import Tensor

pytestmark = needs_emulator


class AdamwCase(Case):
    """Its moments are far from zero: where both are rounding errors, so is their ratio."""

    def __init__(self, rng: np.random.Generator, dtype: torch.dtype, shots: int) -> None:
        super().__init__(rng, dtype, shots)
        self.t, self.lr = float(rng.choice([1, 2, 100])), float(rng.choice([0.5, 0.05]))
        self.beta1, self.beta2 = (float(rng.choice([0.5, 0.875])) for _ in range(2))
        self.eps, self.weight_decay = float(rng.choice([0.125, 1.0])), float(rng.choice([0, 0.25]))
        amsgrad = rng.random() < 0.4
        self.states = [self.like_weight(), self.like_weight().abs(), self.like_weight().abs() if amsgrad else None]
        self.settings = self.t, self.lr, self.beta1, self.beta2, self.eps, self.weight_decay

    def expected(self) -> list[tuple[Tensor | None, Tensor | None]]:
        (m, second, largest), g, size = self.states, self.gradient(), self.gradient(absolute=True)
        w = self.dictionary.weight
        m, m_size = (self.beta1 * a + (1 - self.beta1) * b for a, b in ((m, g), (m.abs(), size)))
        second, second_size = (self.beta2 * second + (1 - self.beta2) * x.square() for x in (g, size))
        if largest is not None:
            largest = torch.maximum(largest, second)
        under = second if largest is None else largest
        root = (under / (1 - self.beta2**self.t)).sqrt() + self.eps
        step = self.lr / (1 - self.beta1**self.t)
        w, w_size = (
            (1 - self.lr * self.weight_decay) * w - step * m / root,
            # A relative error of the root, from that of a sum with terms that cancel, is one of the step.
            w.abs() + step * (m_size / root + m.abs() / root * second_size / under),
        )
        return [(w, w_size), (m, m_size), (second, second_size), (largest, second_size if largest is None else largest)]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("order", ORDERS)
def test_random_dictionaries(order: str, dtype: torch.dtype) -> None:
    for seed in share(range(BATCHES), order):
        run(AdamwCase, "adamw_update", "plain", order, seed, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@under_sanitizers
def test_memory_and_races(variant: str, order: str, dtype: torch.dtype) -> None:
    for seed in range(100, 103):
        run(AdamwCase, "adamw_update", variant, order, seed, dtype)


def test_more_dictionaries_and_uses_than_one_launch_holds() -> None:
    run_many(AdamwCase, "adamw_update")
