"""Timings of `kshot_conv2d` and of its peers."""

import pytest

from benchmarks.cases import cases

CASES = [
    *cases("shared_code", "nas_bench_macro", "stage3.1 MB3 3x3 expand", "stage3.1 MB6 5x5 depthwise"),
    *cases("per_sample_code", "efficientnet_b0", "stage6.1 depthwise", "stage6.1 project"),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_kshot_conv2d(time_case, case):
    time_case("kshot_conv2d", case)
