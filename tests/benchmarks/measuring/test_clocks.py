"""The clock of a GPU, on a simulated one: the time of the kernels alone, from a cold cache."""

import pytest
import torch
from simulated_gpu import SimulatedGpu

from benchmarks.forms import Form
from benchmarks.measuring.clocks import LONGEST_LEAD, SHORTEST_LEAD, cuda_clock
from benchmarks.measuring.timing import interleave, ratio_of, screen


@pytest.fixture
def gpu() -> SimulatedGpu:
    return SimulatedGpu()


def test_time_of_the_kernels(gpu):
    assert gpu.clock().seconds(gpu.form("a", kernels=4, seconds=1e-5)) == pytest.approx(4e-5)


def test_the_cache_is_flushed_before_each_run_and_outside_of_the_interval(gpu):
    form = gpu.form("a", kernels=1, seconds=1e-4)
    assert gpu.clock().seconds(form, repeats=3) == pytest.approx(1e-4)
    assert gpu.log == ["spin", "flush", "event", "a", "event"] * 3


@pytest.mark.parametrize("host_seconds", [1e-5, 1e-3, 1e-2])
def test_waits_for_the_host_are_not_counted(gpu, host_seconds):
    form = gpu.form("a", kernels=3, seconds=2e-6, host_seconds=host_seconds)
    assert gpu.clock().seconds(form) == pytest.approx(6e-6)


def test_a_lead_that_was_found_is_kept_for_its_form_alone(gpu):
    clock, slow, quick = gpu.clock(), gpu.form("slow", 1, 1e-6, 5e-3), gpu.form("quick", 1, 1e-6)
    clock.seconds(slow)
    found = gpu.spins[-1]
    assert gpu.spins == [SHORTEST_LEAD * 2**doubling for doubling in range(len(gpu.spins))]
    assert len(gpu.spins) > 1
    gpu.spins.clear()
    clock.seconds(slow)
    clock.seconds(quick)
    assert gpu.spins == [found, SHORTEST_LEAD]


def test_a_form_that_waits_for_the_gpu_is_timed_with_its_waits(gpu):
    def run() -> tuple:
        gpu.launch("a", 1e-4)
        gpu.wait()
        gpu.host += 3e-4
        gpu.launch("b", 1e-4)
        return ()

    assert gpu.clock().seconds(Form("waits", run)) == pytest.approx(5e-4)
    assert gpu.spins[-1] == LONGEST_LEAD


def test_preparation_is_off_the_clock(gpu):
    form = Form("a", lambda _: gpu.launch("a", 1e-5) or (), prepare=lambda: gpu.launch("prepare", 1.0) or (0,))
    assert gpu.clock().seconds(form) == pytest.approx(1e-5)


def test_forms_take_turns(gpu):
    forms = [gpu.form("a", 1, 1e-5, host_seconds=1e-4), gpu.form("b", 1, 3e-5)]
    clock = gpu.clock()
    assert [form.name for form, _ in screen(forms, clock)] == ["a", "b"]
    gpu.log.clear()
    ours, rival = interleave(forms, pairs=3, repeats=1, clock=clock)
    assert [name for name in gpu.log if name in "ab"] == ["a", "b"] * 4
    assert ratio_of(rival, ours).median == pytest.approx(3)


@pytest.mark.gpu
def test_the_clock_of_a_gpu():
    """A copy that is twice as long takes twice the time, and a cached one is not seen to be cached."""
    clock = cuda_clock()

    def copy(megabytes: int) -> Form:
        source = torch.ones(megabytes << 20, dtype=torch.uint8, device="cuda")
        target = torch.empty_like(source)
        return Form(f"{megabytes} MB", lambda: (target.copy_(source),))

    ours, rival = interleave([copy(256), copy(512)], pairs=9, repeats=1, clock=clock)
    assert ratio_of(rival, ours).median == pytest.approx(2, rel=0.15)
