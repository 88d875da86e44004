"""Timings of `KShotSGD` and of its peers."""

import pytest

from benchmarks.cases import cases

CASES = cases("sgd", "nas_bench_macro", "path")


@pytest.mark.parametrize("case", CASES, ids=str)
def test_kshot_sgd(time_case, case):
    time_case("KShotSGD", case)
