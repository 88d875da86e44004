"""Geometric means of speedups over rows."""

from __future__ import annotations

import math
from collections.abc import Sequence

from benchmarks.measuring.measure import RowResult


def geometric_mean(values: Sequence[float], weights: Sequence[float] | None = None) -> float:
    """exp(sum_i w_i log v_i / sum_i w_i); equal weights unless given.

    Raises:
        ValueError: there is no value, or one is not positive.
    """
    weights = [1.0] * len(values) if weights is None else weights
    if not values or not all(value > 0 for value in values):
        raise ValueError(f"expected positive values, at least one, got {list(values)}")
    logarithms = [weight * math.log(value) for value, weight in zip(values, weights, strict=True)]
    return math.exp(math.fsum(logarithms) / math.fsum(weights))


def mean_speedup(rows: Sequence[RowResult], rival: str) -> float:
    """Geometric mean, each row once."""
    return geometric_mean([row.rivals[rival].speedup.median for row in rows])


def weighted_mean_speedup(rows: Sequence[RowResult], rival: str) -> float:
    """Geometric mean, each row weighted by how often the network has it times the rival's time."""
    weights = [row.count * row.rivals[rival].best.seconds for row in rows]
    return geometric_mean([row.rivals[rival].speedup.median for row in rows], weights)


def mean_memory_ratio(rows: Sequence[RowResult], rival: str) -> float | None:
    """Geometric mean of our peak memory over the rival's; None where any was not measured."""
    pairs = [(row.ours.peak_bytes, row.rivals[rival].best.peak_bytes) for row in rows]
    if not all(ours and theirs for ours, theirs in pairs):
        return None
    return geometric_mean([ours / theirs for ours, theirs in pairs])
