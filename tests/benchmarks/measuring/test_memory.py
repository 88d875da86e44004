"""Peak memory, measured in a process of its own."""

import multiprocessing

import pytest
import torch

from benchmarks.forms import Form
from benchmarks.measuring.memory import added_bytes, added_cuda_bytes

MEGABYTE = 2**20


def _peak_and_kept() -> tuple[torch.Tensor]:
    temporary = torch.ones(30 * MEGABYTE, dtype=torch.uint8)
    return (temporary[: 10 * MEGABYTE] + 1,)


def _put_added_bytes(queue) -> None:
    torch.ones(100 * MEGABYTE, dtype=torch.uint8)  # an earlier peak, which must not count
    queue.put(added_bytes(Form("30 MB that pass and 10 that stay", _peak_and_kept)))


def test_measures_the_peak_of_a_run():
    context = multiprocessing.get_context("spawn")  # the allocator settings are for that process alone
    queue = context.Queue()
    child = context.Process(target=_put_added_bytes, args=(queue,))
    child.start()
    added = queue.get(timeout=60)
    child.join()
    assert 39 * MEGABYTE <= added <= 43 * MEGABYTE


@pytest.mark.gpu
def test_peak_on_a_gpu():
    def run() -> tuple[torch.Tensor]:
        temporary = torch.ones(30 * MEGABYTE, dtype=torch.uint8, device="cuda")
        return (temporary[: 10 * MEGABYTE] + 1,)

    torch.ones(100 * MEGABYTE, dtype=torch.uint8, device="cuda")  # an earlier peak, which must not count
    assert added_cuda_bytes(Form("30 MB that pass and 10 that stay", run)) == 40 * MEGABYTE


def test_peak_counts_from_what_was_given_out_before(monkeypatch):
    """On a stand-in for torch's allocator."""
    given = {"now": 7, "peak": 1000}
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: given["now"])
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: given["peak"])
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: given.update(peak=given["now"]))

    def run(*_) -> tuple:
        given.update(peak=max(given["peak"], given["now"] + 40))
        return ()

    form = Form("40 bytes that pass", run, prepare=lambda: given.update(now=given["now"] + 5) or (0,))
    assert added_cuda_bytes(form) == 40
