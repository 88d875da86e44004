"""The clock: ratios of workloads whose ratio is known."""

import time

import pytest

from benchmarks.forms import Form
from benchmarks.measuring.clocks import HostClock
from benchmarks.measuring.timing import Ratio, interleave, ratio_of, repeats_for, screen

CLOCK = HostClock()


def sleeping(name, duration, **options):
    return Form(name, lambda: time.sleep(duration) or (), **options)


def test_known_ratio():
    ours, rival = interleave([sleeping("ours", 0.01), sleeping("rival", 0.03)], pairs=5, repeats=1, clock=CLOCK)
    assert ratio_of(rival, ours).median == pytest.approx(3, rel=0.3)


def test_runs_are_interleaved_and_the_warm_up_round_is_dropped():
    order = []
    forms = [Form(name, lambda name=name: order.append(name) or ()) for name in "AB"]
    samples = interleave(forms, pairs=3, repeats=1, clock=CLOCK)
    assert "".join(order) == "AB" * 4
    assert [len(times) for times in samples] == [3, 3]


def test_preparation_is_off_the_clock():
    form = Form("prepared", lambda value: (value,), prepare=lambda: time.sleep(0.05) or (1,))
    assert CLOCK.seconds(form) < 0.02


def test_repeats_share_a_sample():
    runs = []
    duration = CLOCK.seconds(Form("counted", lambda: runs.append(time.sleep(0.01)) or ()), repeats=4)
    assert len(runs) == 4
    assert 0.01 <= duration < 0.04


def test_ratio_pairs_samples_in_order():
    assert ratio_of([2, 6, 20], [1, 2, 4]) == Ratio(3, 2.5, 4)
    assert ratio_of([2, 6, 20], [1, 2, 4]).spread == 0.5


def test_ratio_needs_pairs():
    with pytest.raises(ValueError, match="shorter"):
        ratio_of([1, 2], [1])


@pytest.mark.parametrize(("duration", "repeats"), [(1e-6, 50), (1e-3, 2), (1.0, 1)])
def test_short_runs_are_repeated(duration, repeats):
    assert repeats_for(duration) == repeats


def test_screening_ranks_by_time():
    forms = [sleeping("slow", 0.03), sleeping("fast", 0.005), sleeping("middle", 0.015)]
    assert [form.name for form, _ in screen(forms, CLOCK)] == ["fast", "middle", "slow"]


def test_compiled_form_is_tried_in_the_faster_layout_only():
    forms = [
        sleeping("a", 0.02, layout="contiguous"),
        sleeping("b", 0.005, layout="channels_last"),
        sleeping("compiled a", 0.001, layout="contiguous", compiled=True),
        sleeping("compiled b", 0.001, layout="channels_last", compiled=True),
    ]
    assert [form.name for form, _ in screen(forms, CLOCK)] == ["compiled b", "b", "a"]
