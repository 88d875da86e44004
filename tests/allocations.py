"""Memory that a call takes, counted by torch's profiler."""

from __future__ import annotations

from collections.abc import Callable

import torch


def allocations(run: Callable[[], object]) -> list[int]:
    """Bytes of the blocks of memory that tensors take while `run` runs."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run()
    events = profile.profiler.kineto_results.events()
    return [event.nbytes() for event in events if event.name() == "[memory]" and event.nbytes() > 0]
