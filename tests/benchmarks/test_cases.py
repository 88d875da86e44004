"""pytest-benchmark reports what our clocks measure, in every place."""

import pytest

from benchmarks.cases import TIMER, Case, cases


@pytest.mark.benchmark(timer=TIMER)
def test_times_of_our_clocks_are_reported(benchmark):
    benchmark.disabled = False  # it is off where tests run in several processes, since they disturb real clocks
    benchmark.pedantic(lambda: TIMER.add(0.25), rounds=3)
    assert benchmark.stats.stats.mean == 0.25


@pytest.mark.parametrize(
    ("work", "row", "forms", "places"),
    [("sgd", "path", 2, 2), ("batch_norm", "stage3.0 MB6 5x5 depthwise", 4, 3)],  # no SGD in bfloat16
)
def test_each_form_is_a_case_in_each_place(work, row, forms, places):
    found = cases(work, "nas_bench_macro", row)
    names = [str(*parameter.values) for parameter in found]
    assert len(set(names)) == len(names) == forms * places
    for parameter in found:
        case: Case = parameter.values[0]
        marks = {mark.name for mark in parameter.marks}
        assert marks == {"benchmark", "gpu"} if case.place.device == "cuda" else {"benchmark"}
