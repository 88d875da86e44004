"""CUDA kernels of the alignment by dynamic time warping, on the emulator, against the reference."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from cuda_emulation import traffic
from cuda_emulation.emulation import ORDERS, load
from cuda_emulation.selection import needs_emulator, needs_full, share, under_sanitizers
from cuda_emulation.workloads import alignment
from torch import Tensor

from kshot_ext import reference

pytestmark = needs_emulator

CASES = 24  # of each dtype
DTYPES = (torch.float32, torch.float64)


class Case:
    """Pairs of sequences, whose points are small integers: sums are exact, and many are equal."""

    def __init__(self, seed: int, dtype: torch.dtype) -> None:
        rng = np.random.default_rng(seed)
        rows, columns = (int(rng.choice([1, 2, 5, 20, 31, 32, 33, 70])) for _ in range(2))
        if rng.random() < 0.3:
            columns = rows
        count, channels = int(rng.integers(0, 4)), int(rng.integers(1, 4))
        points = [rng.integers(-2, 3, (count, most, channels)) for most in (rows, columns)]
        self.p, self.t = (torch.from_numpy(each).to(dtype) for each in points)
        self.lengths: list[Tensor | None] = [None, None]
        if rng.random() < 0.6:
            self.lengths = [torch.from_numpy(rng.integers(1, most + 1, count)) for most in (rows, columns)]
        self.band = [None, 0, 1, 3, 40][int(rng.integers(5))]
        self.norm = int(rng.integers(1, 3))
        self.grad = torch.from_numpy(rng.integers(-2, 3, count)).to(dtype)
        self.needs = [bool(rng.random() < 0.8) for _ in range(2)]

    def align(self, module) -> tuple[Tensor, Tensor]:
        arrays = [None if x is None else x.numpy() for x in (self.p, self.t, *self.lengths)]
        cost, path = module.dtw_align(*arrays, -1 if self.band is None else self.band, self.norm == 2)
        return torch.from_numpy(cost), torch.from_numpy(path)

    def reference(self) -> tuple[Tensor, Tensor, list[Tensor]]:
        leaves = [x.clone().requires_grad_() for x in (self.p, self.t)]
        cost, path = reference.dtw_align(*leaves, *self.lengths, band=self.band, norm=self.norm)
        return cost.detach(), path, list(torch.autograd.grad(cost, leaves, self.grad))


def run(variant: str, order: str, seed: int, dtype: torch.dtype) -> None:
    case, module = Case(seed, dtype), load("dtw_align", variant)
    cost, path, gradients = case.reference()
    with module.schedule(order, seed=seed, shift=8 if seed % 3 == 0 else 0):
        found, found_path = case.align(module)
        arrays = [x.numpy() for x in (case.grad, case.p, case.t, path)]
        found_gradients = module.dtw_align_backward(*arrays, case.norm == 2, *case.needs)
    assert torch.equal(found_path, path)
    torch.testing.assert_close(found, cost)
    for needed, one, other in zip(case.needs, found_gradients, gradients):
        if needed:
            torch.testing.assert_close(torch.from_numpy(one), other)
        else:
            assert one is None


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("order", ORDERS)
def test_random_pairs(order: str, dtype: torch.dtype) -> None:
    for seed in share(range(CASES), order):
        run("plain", order, seed, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@under_sanitizers
def test_memory_and_races(variant: str, order: str, dtype: torch.dtype) -> None:
    for seed in range(100, 110):
        run(variant, order, seed, dtype)


def aligned(p: Tensor, t: Tensor, lengths: Tensor | None = None, band: int | None = None) -> tuple[Tensor, Tensor]:
    case = Case(0, torch.float32)
    case.p, case.t, case.lengths, case.band, case.norm = p, t, [lengths, lengths], band, 1
    return case.align(load("dtw_align"))


@pytest.mark.parametrize("band", [None, 1])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_numbers_that_are_not_finite(bad: float, band: int | None) -> None:
    p, t = torch.randn(2, 12, 2), torch.randn(2, 9, 2)
    p[0, 5, 0], t[0, 3, 1], t[0, 3, 0] = bad, -bad, bad
    (cost, path), expected = aligned(p, t, band=band), reference.dtw_align(p, t, band=band)
    assert torch.equal(path, expected.path)
    torch.testing.assert_close(cost, expected.cost, equal_nan=True)


def test_lengths_out_of_range_have_no_path() -> None:
    cost, path = aligned(torch.randn(4, 5, 2), torch.randn(4, 5, 2), torch.tensor([0, 5, 6, -(2**40)]))
    assert cost.isnan().tolist() == [True, False, True, True]
    assert (path[cost.isnan()] == -1).all()


@pytest.mark.parametrize(("rows", "columns", "band"), [(300, 330, None), (4200, 3, None), (300, 330, 40)])
def test_what_does_not_fit_into_shared_memory(rows: int, columns: int, band: int | None) -> None:
    """Bits of all cells, costs of long sequences; and where both fit."""
    p, t = torch.randn(2, rows, 1).round(), torch.randn(2, columns, 1).round()
    (cost, path), expected = aligned(p, t, band=band), reference.dtw_align(p, t, band=band)
    assert torch.equal(path, expected.path)
    assert torch.equal(cost, expected.cost)


def test_gradients_of_paths_that_leave_their_rectangle_touch_nothing_else() -> None:
    module, (p, t) = load("dtw_align"), torch.ones(2, 1, 4, 1)
    path = torch.tensor([[[0, 0], [9, 0], [2**40, -5], [-7, 9], [3, 2**40], [-1, -1], [-1, -1]]])
    found = module.dtw_align_backward(torch.ones(1).numpy(), p.numpy(), 3 * t.numpy(), path.numpy(), False, True, True)
    assert found[0].ravel().tolist()[1:] == [0.0, 0.0, 0.0]
    assert np.isfinite(found[1]).all()


@needs_full
@pytest.mark.parametrize(("backward", "most"), [(False, 1.45), (True, 1.3)])
def test_traffic(backward: bool, most: float) -> None:
    """With a cache for each block. Forward, steps are read back to be moved; backward, sums are added to in place."""
    counted = alignment(4, 200, 180, 20, backward).count()
    print(f"{counted.moved_by_blocks / counted.least:.3f} of the least\n{traffic.table(counted.kernels)}")
    print(f"{counted.bank_conflict if not backward else 1:.3f} passes through shared memory where one could do")
    assert counted.moved_by_blocks <= most * counted.least
    assert backward or counted.bank_conflict <= 1.4  # conditional reads count as if lanes came one after the other
