"""Measure one row: check values, pick the best forms, time them in turn, measure their memory."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

import torch

from benchmarks.forms import Contest, Form
from benchmarks.measuring.check import available, check_values
from benchmarks.measuring.machine import Machine
from benchmarks.measuring.timing import Ratio, interleave, ratio_of, repeats_for, screen
from benchmarks.works.row import Row


@dataclass(frozen=True)
class Settings:
    """How to measure.

    Args:
        pairs: interleaved rounds.
        compiled: whether forms behind `torch.compile` compete.
        memory: whether to measure peak memory.
    """

    pairs: int = 15
    compiled: bool = True
    memory: bool = True


@dataclass(frozen=True)
class Timed:
    """The form that counted, its median seconds, and its peak memory, if measured."""

    form: str
    seconds: float
    peak_bytes: int | None


@dataclass(frozen=True)
class Rival:
    """A rival's best form; `speedup` is its time over ours."""

    best: Timed
    speedup: Ratio


@dataclass(frozen=True)
class RowResult:
    """A measured row; `rivals` by label."""

    name: str
    kind: str
    geometry: str
    count: int
    ours: Timed
    rivals: dict[str, Rival]


def measure(work: str, set_name: str, row: Row, settings: Settings, machine: Machine) -> RowResult:
    """Measure `row` of a work and layer set on a machine.

    Raises:
        WrongValuesError: a form computes wrong values.
    """
    torch.compiler.reset()  # each row compiles its own shapes; torch limits how many versions it keeps
    contest = available(row.contest(machine.place), settings.compiled)
    competitors = {"ours": contest.ours, **contest.rivals}
    rankings = {label: screen(forms, machine.clock) for label, forms in competitors.items()}
    finalists = {label: ranking[0][0] for label, ranking in rankings.items()}
    _check_compiled(contest, list(finalists.values()))

    shortest = min(ranking[0][1] for ranking in rankings.values())
    timed = interleave(list(finalists.values()), settings.pairs, repeats_for(shortest), machine.clock)
    samples = dict(zip(finalists, timed))

    peaks = _peaks(work, set_name, row, rankings, machine) if settings.memory else dict.fromkeys(finalists)
    best = {
        label: Timed(form.name, statistics.median(samples[label]), peaks[label]) for label, form in finalists.items()
    }
    rivals = {label: Rival(best[label], ratio_of(samples[label], samples["ours"])) for label in contest.rivals}
    return RowResult(row.name, row.kind, row.geometry, row.count, best["ours"], rivals)


def _peaks(
    work: str, set_name: str, row: Row, rankings: dict[str, list[tuple[Form, float]]], machine: Machine
) -> dict[str, int | None]:
    """Peak memory by label, of the best form that is not compiled: compiling again would drown the figure."""
    forms = {label: next(form for form, _ in ranking if not form.compiled) for label, ranking in rankings.items()}
    measured = machine.peak_bytes(work, set_name, row.name, list(forms.values()))
    return {label: measured[form.name] for label, form in forms.items()}


def _check_compiled(contest: Contest, finalists: list[Form]) -> None:
    for form in finalists:
        if form.compiled:
            reference = next(iter(contest.rivals.values()))[0].result()
            check_values(form.name, form.result(), reference, contest.tolerance)
