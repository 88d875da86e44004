"""The rule of every floor and every prediction here: what is done at once takes as long as the longest part of it."""

from __future__ import annotations

from collections.abc import Mapping


def least_time(demands: Mapping[str, float], rates: Mapping[str, float]) -> tuple[float, str]:
    """Seconds that a piece of work takes at least, and the name of the demand that sets them.

    `max_d demands[d] / rates[d]`, as in the roofline model (Williams, Waterman, Patterson, CACM 2009).

    Args:
        demands: how much of what the work takes, such as bytes and operations; not empty.
        rates: how much of it the machine does in a second.
    """
    times = {name: amount / rates[name] for name, amount in demands.items()}
    bound = max(times, key=lambda name: times[name])
    return times[bound], bound
