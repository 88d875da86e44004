"""Timings of `batch_norm_act` and of its peers."""

import pytest

from benchmarks.cases import cases

CASES = cases("batch_norm", "nas_bench_macro", "stage3.0 MB6 5x5 depthwise")


@pytest.mark.parametrize("case", CASES, ids=str)
def test_batch_norm_act(time_case, case):
    time_case("batch_norm_act", case)
