"""Dense links of a chain on the emulator, forward and backward, against PyTorch in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cuda_emulation.chain_cases import (
    DenseCase,
    Link,
    Problem,
    check_both_ways,
    check_moments_far_from_zero,
    check_order_of_threads,
    random_dense_link,
)
from cuda_emulation.depthwise_cases import Axis
from cuda_emulation.emulation import ORDERS, load
from cuda_emulation.selection import needs_emulator, share, under_sanitizers

pytestmark = needs_emulator

CASES = 72


def check(seed: int, order: str, module: Any) -> None:
    problem = Problem(random_dense_link(seed))
    with module.schedule(order, seed=seed):
        check_both_ways(module, problem)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("first", range(0, CASES, 12))
def test_random_links(first: int, order: str) -> None:
    for seed in share(range(first, first + 12), order):
        check(seed, order, load("chained_dense"))


@under_sanitizers
@pytest.mark.parametrize("first", range(0, 24, 8))
def test_sanitizers(first: int, variant: str, order: str) -> None:
    for seed in range(first, first + 8):
        check(seed, order, load("chained_dense", variant))


def plane(size: int, kernel: int = 1, stride: int = 1, **fields: Any) -> DenseCase:
    axis = Axis(size, kernel, stride, kernel // 2, kernel // 2)
    return DenseCase(axis, axis, **fields)


# What random links hardly meet: tall tiles, many blocks, classes of places that leave blocks out.
SPECIAL = {
    "tall tiles": Link(plane(48, batch=15, channels=4, out_channels=5), activation="relu6"),
    "tall tiles per sample": Link(plane(128, batch=2, channels=4, out_channels=3, dtype="float16"), norm="sample"),
    "several tiles of channels": Link(plane(11, batch=2, channels=140, out_channels=132, dtype="bfloat16")),
    "more classes than a launch takes": Link(plane(34, 3, 3, batch=1, channels=8, out_channels=8)),
}


@pytest.mark.parametrize("name", SPECIAL)
def test_special_links(name: str) -> None:
    module, problem = load("chained_dense"), Problem(SPECIAL[name])
    with module.schedule(ORDERS[list(SPECIAL).index(name) % 3], seed=5):
        check_both_ways(module, problem)


def test_results_do_not_depend_on_the_order() -> None:
    module, problem = load("chained_dense"), Problem(Link(plane(13, 3, batch=2, channels=12, out_channels=20)))
    check_order_of_threads(module, problem)


def test_moments_of_channels_far_from_zero() -> None:
    """Raw outputs whose mean is a thousand deviations: sums of squares about zero would have no digit left."""
    problem = Problem(Link(plane(24, batch=2, channels=8), norm="none", activation="identity"))
    problem.conv.weight = torch.eye(8)[..., None, None]
    check_moments_far_from_zero(load("chained_dense"), problem)
