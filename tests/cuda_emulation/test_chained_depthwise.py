"""Depthwise links of a chain on the emulator, forward and backward, against PyTorch in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cuda_emulation.chain_cases import (
    Link,
    Problem,
    check_both_ways,
    check_moments_far_from_zero,
    check_order_of_threads,
    random_link,
    square,
)
from cuda_emulation.emulation import ORDERS, load
from cuda_emulation.selection import needs_emulator, share, under_sanitizers

pytestmark = needs_emulator

CASES = 90


def check(seed: int, order: str, module: Any) -> None:
    problem = Problem(random_link(seed))
    with module.schedule(order, seed=seed, shift=(0, 0, 8, 4)[seed % 4]):
        check_both_ways(module, problem)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("first", range(0, CASES, 15))
def test_random_links(first: int, order: str) -> None:
    for seed in share(range(first, first + 15), order):
        check(seed, order, load("chained_depthwise"))


@under_sanitizers
@pytest.mark.parametrize("first", range(0, 36, 12))
def test_sanitizers(first: int, variant: str, order: str) -> None:
    for seed in range(first, first + 12):
        check(seed, order, load("chained_depthwise", variant))


# What random links hardly meet: several samples to a block, many tiles.
SPECIAL = {
    "samples share a block": Link(square(4, 3, batch=9, channels=1200, shots=2), activation="relu6"),
    "samples share a block and a held dictionary": Link(square(4, 3, batch=4, channels=900, shots=3, code="sample")),
    "many tiles": Link(square(45, 5, batch=1, channels=33), activation="silu"),
    "many tiles, stride 2": Link(square(50, 3, 2, batch=2, channels=40, dtype="bfloat16"), norm="sample"),
}


@pytest.mark.parametrize("name", SPECIAL)
def test_special_links(name: str) -> None:
    module, problem = load("chained_depthwise"), Problem(SPECIAL[name])
    with module.schedule(ORDERS[list(SPECIAL).index(name) % 3], seed=5):
        check_both_ways(module, problem)


def test_results_do_not_depend_on_the_order() -> None:
    module, problem = load("chained_depthwise"), Problem(Link(square(23, 3, batch=3, channels=20, shots=3)))
    check_order_of_threads(module, problem)


def test_moments_of_channels_far_from_zero() -> None:
    """Raw outputs whose mean is a thousand deviations: sums of squares about zero would have no digit left."""
    link = Link(square(24, 3, batch=4, channels=8, code="none", shots=1), norm="none", activation="identity")
    problem = Problem(link)
    centre = torch.zeros(1, 8, 3, 3)
    centre[..., 1, 1] = 1
    problem.conv.dictionary = centre
    check_moments_far_from_zero(load("chained_depthwise"), problem)
