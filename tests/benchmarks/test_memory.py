"""Peak memory, measured in a process of its own."""

import multiprocessing

import torch

from benchmarks.forms import Form
from benchmarks.memory import added_bytes

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
