"""Clocks, one per kind of device, with one method: the mean time of some runs of a form."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import torch

from benchmarks.forms import Form

SHORTEST_LEAD = 2**20  # cycles; about 0.6 ms
LONGEST_LEAD = 2**27  # about 75 ms


class Clock(Protocol):
    """What times forms."""

    def seconds(self, form: Form, repeats: int = 1) -> float:
        """Mean time of `repeats` runs, their preparation left out."""


class HostClock:
    """For work that is done when the call returns."""

    def seconds(self, form: Form, repeats: int = 1) -> float:
        total = 0.0
        for _ in range(repeats):
            arguments = form.prepare()
            start = time.perf_counter()
            result = form.run(*arguments)
            total += time.perf_counter() - start
            del arguments, result
        return total / repeats


class EventClock:
    """For a GPU: time between two events on its stream, from a cold L2 cache, without waits for the host.

    Before the first event the GPU spins, while the host queues the run, and overwrites its L2 cache. Where the first
    event has passed before the host is done, the GPU may have waited inside the interval: the run is repeated behind
    a spin twice as long, and so are later ones of that form. A form that itself waits for the GPU is always late;
    behind the longest spin it is timed as it is.

    Args:
        flush: overwrites the L2 cache.
        new_event: makes an event with the methods of `torch.cuda.Event`.
        spin: keeps the GPU busy for a number of cycles.
    """

    def __init__(self, flush: Callable[[], None], new_event: Callable[[], Any], spin: Callable[[int], None]) -> None:
        self._flush, self._new_event, self._spin = flush, new_event, spin
        self._leads: WeakKeyDictionary[Form, int] = WeakKeyDictionary()

    def seconds(self, form: Form, repeats: int = 1) -> float:
        return sum(self._run(form) for _ in range(repeats)) / repeats

    def _run(self, form: Form) -> float:
        while True:
            lead = self._leads.setdefault(form, SHORTEST_LEAD)
            arguments = form.prepare()
            start, end = self._new_event(), self._new_event()
            self._spin(lead)
            self._flush()
            start.record()
            result = form.run(*arguments)
            end.record()
            late = start.query()
            end.synchronize()
            del arguments, result
            if not late or lead >= LONGEST_LEAD:
                return 1e-3 * start.elapsed_time(end)
            self._leads[form] = 2 * lead


def cuda_clock() -> EventClock:
    """The clock of the current CUDA device."""
    cache = torch.cuda.get_device_properties(torch.cuda.current_device()).L2_cache_size
    buffer = torch.empty(2 * cache, dtype=torch.uint8, device="cuda")
    return EventClock(
        flush=buffer.zero_,
        new_event=lambda: torch.cuda.Event(enable_timing=True),
        spin=torch.cuda._sleep,  # no public name; torch's own tests use it so
    )
