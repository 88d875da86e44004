"""What a report says of a part beside its times: rates reached, what "auto" chose, whether it can stay."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from benchmarks.floors import Rates, achieved
from benchmarks.measuring.choice import chosen_algorithm
from benchmarks.measuring.machine import Machine
from benchmarks.measuring.measure import RowResult, Settings
from benchmarks.reporting.results import Part
from benchmarks.reporting.targets import reached
from benchmarks.works.row import Row

SAME = ("commit", "torch")  # of two environments whose figures may stand in one report


def row_details(row: Row, result: RowResult, rates: Rates, machine: Machine) -> dict[str, Any]:
    """What ours achieved, where the row's traffic is modelled; and of a convolution, how good "auto" was."""
    details: dict[str, Any] = {"name": row.name}
    if row.traffic is not None:
        details["achieved"] = dataclasses.asdict(achieved(row, result.ours.seconds, rates))
    if "algorithm" in result.rivals:
        forced = result.rivals["algorithm"]
        details["auto"] = {
            "chosen": chosen_algorithm(row.contest(machine.place).form(result.ours.form)),
            "fastest": forced.best.form,
            "time_over_fastest": 1 / forced.speedup.median,
        }
    return details


def means(parts: Sequence[Part]) -> list[dict[str, Any]]:
    """Geometric means of speedups, per comparison, layer set and precision."""
    return [
        {
            "precision": line.part.precision,
            "comparison": line.target.title,
            "layer_set": line.part.layer_set,
            "speedup": line.speedup,
            "weighted_speedup": line.weighted,
            "slowest": line.worst,
            "slowest_row": line.worst_row,
            "memory": line.memory,
        }
        for line in reached(parts)
    ]


def goes_on(part: Part, environment: dict[str, Any], settings: Settings) -> bool:
    """Whether a part of a report is from the same program and measured as thoroughly as asked, so that it can stay."""
    origin = part.environment
    enough = all(origin["settings"][name] >= wish for name, wish in dataclasses.asdict(settings).items())
    return enough and all(origin[name] == environment[name] for name in SAME)
