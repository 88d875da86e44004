"""Timings of `gated_conv2d` and of its peers."""

import pytest

from benchmarks.cases import cases

CASES = cases("widths", "nas_bench_macro", "stage3.1 MB3 3x3 expand x 1/2", "stage3.1 MB6 5x5 depthwise x 1/2")


@pytest.mark.parametrize("case", CASES, ids=str)
def test_gated_conv2d(time_case, case):
    time_case("gated_conv2d", case)
