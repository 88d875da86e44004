"""Depthwise kernels on the emulator: random geometries in every order of threads, against PyTorch in float64."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any

import pytest
from cuda_emulation.depthwise_cases import Axis, Case, Problem, assert_close, random_case
from cuda_emulation.emulation import ORDERS, load
from cuda_emulation.selection import needs_emulator, needs_full, share

pytestmark = needs_emulator

CASES = 216
PER_TEST = 12


@cache
def results(problem: Problem) -> tuple[dict, dict]:
    return problem.expected(), problem.expected(absolute=True)


@cache
def problem_of(case: Case) -> Problem:
    return Problem(case)


def check_conv2d(module: Any, case: Case) -> None:
    problem = problem_of(case)
    expected, absolute = results(problem)
    assert_close(case, problem.run_conv2d(module), expected["output"], absolute["output"])


def check_input_gradient(module: Any, case: Case) -> None:
    problem = problem_of(case)
    expected, absolute = results(problem)
    assert_close(case, problem.run_input_gradient(module), expected["grad_input"], absolute["grad_input"])


def check_weight_gradient(module: Any, case: Case) -> None:
    problem = problem_of(case)
    expected, absolute = results(problem)
    per_sample = case.code == "sample"
    made = problem.run_weight_gradient(module, per_sample)
    for result, name in zip(made, ("grad_taps", "grad_bias"), strict=True):
        due, size = expected[name], absolute[name]
        if not per_sample:
            due, size = due.sum(0, keepdim=True), size.sum(0, keepdim=True)
        assert_close(case, result, due, size, sums=True)


CHECKS = {"conv2d": check_conv2d, "input_gradient": check_input_gradient, "weight_gradient": check_weight_gradient}


def check(direction: str, seeds: Iterable[int], order: str, module: Any) -> None:
    """The cases of some seeds, their buffers aligned to 16 bytes, 8 or 4."""
    for seed in seeds:
        case = random_case(seed)
        shift = (0, 0, 8, 8 if case.dtype == "float64" else 4)[seed % 4]
        with module.schedule(order, seed=seed, shift=shift):
            CHECKS[direction](module, case)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("direction", CHECKS)
@pytest.mark.parametrize("first", range(0, CASES, PER_TEST))
def test_random_geometries(first: int, direction: str, order: str) -> None:
    module = load("depthwise_conv2d")
    check(direction, share(range(first, first + PER_TEST), order), order, module)


@needs_full
@pytest.mark.parametrize("direction", CHECKS)
@pytest.mark.parametrize("variant", ["asan", "tsan"])
@pytest.mark.parametrize("first", range(0, 72, PER_TEST))
def test_sanitizers(first: int, variant: str, direction: str) -> None:
    module = load("depthwise_conv2d", variant)
    check(direction, range(first, first + PER_TEST), ORDERS[first // PER_TEST % 3], module)


def square(size: int, kernel: int, stride: int = 1, dilation: int = 1) -> tuple[Axis, Axis]:
    """Height and width of a square image that is padded to keep its size."""
    padding = dilation * (kernel - 1) // 2
    axis = Axis(size, kernel, stride, padding, padding, dilation)
    return axis, axis


# What random cases hardly meet: several samples to a block, many tiles, wide images.
SPECIAL = {
    "samples share a block": Case(*square(64, 3), batch=16, channels=2, shots=16, gate="shared"),
    "samples share a block and a held dictionary": Case(
        *square(4, 3), batch=4, channels=1760, shots=5, code="sample", gate="sample", tap_major=True
    ),
    "dictionary too large to be held": Case(*square(64, 3), batch=16, channels=2, shots=16, code="sample"),
    "samples share a block, contiguous": Case(
        *square(5, 3), batch=4, channels=900, shots=3, code="sample", channels_last=False
    ),
    "many tiles": Case(*square(61, 5), batch=1, channels=36),
    "many tiles, stride 2": Case(*square(75, 3, 2), batch=1, channels=40, dtype="float16", bias="sample"),
    "many tiles, stride 2, 7x7": Case(*square(66, 7, 2), batch=1, channels=20, dtype="bfloat16"),
    "wide, contiguous": Case(*square(90, 3), batch=1, channels=3, channels_last=False, bias="shared"),
    "wide, contiguous, stride 2": Case(*square(132, 5, 2), batch=1, channels=2, channels_last=False),
    "wide, contiguous, 16 bit": Case(
        *square(96, 7), batch=2, channels=2, channels_last=False, dtype="bfloat16", code="sample"
    ),
    "wide, contiguous, dilated": Case(*square(81, 5, 1, 2), batch=1, channels=2, channels_last=False),
    "dilated, many tiles": Case(*square(50, 5, 1, 2), batch=1, channels=33),
    "dilated with a stride": Case(*square(40, 3, 2, 2), batch=2, channels=24, gate="shared"),
    "reaches farther than a tile may": Case(*square(40, 7, 1, 12), batch=1, channels=5),
    "stride beyond the kernel": Case(*square(30, 3, 4), batch=2, channels=10),
    "no channels": Case(*square(6, 3), batch=2, channels=0),
}


@pytest.mark.parametrize("direction", CHECKS)
@pytest.mark.parametrize("name", SPECIAL)
def test_special_geometries(name: str, direction: str) -> None:
    module = load("depthwise_conv2d")
    for order in ORDERS[: 1 if SPECIAL[name].channels > 1000 else 3]:
        with module.schedule(order, seed=5):
            CHECKS[direction](module, SPECIAL[name])


@needs_full
@pytest.mark.parametrize("direction", CHECKS)
@pytest.mark.parametrize("variant", ["asan", "tsan"])
def test_sanitizers_where_samples_share_a_block(variant: str, direction: str) -> None:
    CHECKS[direction](load("depthwise_conv2d", variant), SPECIAL["samples share a block, contiguous"])
