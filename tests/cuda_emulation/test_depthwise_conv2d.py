"""Depthwise kernels on the emulator: random geometries in every order of threads, against PyTorch in float64."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any

import pytest

from cuda_emulation import build
from cuda_emulation.depthwise_cases import Axis, Case, Problem, assert_close, random_case
from cuda_emulation.emulation import ORDERS, load

pytestmark = pytest.mark.skipif(not build.available(), reason="the emulator needs GCC on Linux")

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
    check(direction, range(first, first + PER_TEST), order, module)


@pytest.mark.parametrize("direction", CHECKS)
@pytest.mark.parametrize("variant", ["asan", "tsan"])
@pytest.mark.parametrize("first", range(0, 72, PER_TEST))
def test_sanitizers(first: int, variant: str, direction: str) -> None:
    module = load("depthwise_conv2d", variant)
    check(direction, range(first, first + PER_TEST), ORDERS[first // PER_TEST % 3], module)
