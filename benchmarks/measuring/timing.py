"""What is made of a clock's times: screening, and the interleaved pairs whose ratios are reported."""

from __future__ import annotations

import gc
import statistics
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from benchmarks.forms import Form
from benchmarks.measuring.clocks import Clock
from benchmarks.place import Place

SHORTEST_SAMPLE = 2e-3  # seconds; shorter runs are repeated within one sample, up to LARGEST_REPEATS times
LARGEST_REPEATS = 50
SCREENING_RUNS = 2
HOPELESS = 1.5  # screening drops a form whose first run takes that many times the best
NOISE_LIMIT = 0.1


@dataclass(frozen=True)
class Ratio:
    """Median and quartiles of the ratios of interleaved pairs."""

    median: float
    low: float
    high: float

    @property
    def spread(self) -> float:
        """Distance of the quartiles relative to the median."""
        return (self.high - self.low) / self.median


def ratio_of(numerators: Sequence[float], denominators: Sequence[float]) -> Ratio:
    """Ratio of samples that were taken in pairs."""
    ratios = [above / below for above, below in zip(numerators, denominators, strict=True)]
    if len(ratios) == 1:
        return Ratio(ratios[0], ratios[0], ratios[0])
    low, median, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return Ratio(median, low, high)


def repeats_for(duration: float) -> int:
    """Runs per sample, so that a sample is long against the clock's own noise."""
    return max(1, min(LARGEST_REPEATS, round(SHORTEST_SAMPLE / duration)))


def screen(forms: Sequence[Form], clock: Clock) -> list[tuple[Form, float]]:
    """Warm forms, fastest first, with the best of a few times of each.

    A compiled form is tried only in the layout in which the others are fastest, as compiling takes seconds.
    """
    ranking = _ranked([form for form in forms if not form.compiled], clock)
    compiled = [form for form in forms if form.compiled and (not ranking or form.layout == ranking[0][0].layout)]
    return sorted(ranking + _ranked(compiled, clock), key=lambda ranked: ranked[1])


def _ranked(forms: Sequence[Form], clock: Clock) -> list[tuple[Form, float]]:
    best = float("inf")
    ranking = []
    for form in forms:
        if form.compiled:
            clock.seconds(form)
        duration = clock.seconds(form)
        if duration < HOPELESS * best:
            repeats = repeats_for(duration)
            duration = min([duration, *(clock.seconds(form, repeats) for _ in range(SCREENING_RUNS))])
        best = min(best, duration)
        ranking.append((form, duration))
    return sorted(ranking, key=lambda ranked: ranked[1])


@contextmanager
def _no_garbage_collection():
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def interleave(forms: Sequence[Form], pairs: int, repeats: int, clock: Clock) -> list[list[float]]:
    """Samples of each form, taken in turn: A B C A B C ..., after a warm-up round."""
    with _no_garbage_collection():
        rounds = [[clock.seconds(form, repeats) for form in forms] for _ in range(pairs + 1)]
    return [list(samples) for samples in zip(*rounds[1:])]


def noise(pairs: int, place: Place, clock: Clock) -> Ratio:
    """Ratios of a workload to itself: what the machine makes of two equal times."""
    generator = torch.Generator().manual_seed(0)
    left, right = (place.normal(generator, 512, 512) for _ in range(2))
    form = Form("matrix product and copy", lambda: (left @ right, left.clone()))
    first, second = interleave([form, form], pairs, repeats_for(clock.seconds(form)), clock)
    return ratio_of(first, second)
