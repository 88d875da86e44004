"""Least time of each row on this machine, and the fraction of it that ours reaches: `python -m benchmarks.floors`.

The floor is the longer of bytes over measured copy bandwidth and operations over measured matrix rate; of a whole step,
the sum of its parts' floors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional as F

from benchmarks.compare import RESULTS, DeviceName, PrecisionName, asked_machine
from benchmarks.cost import least_time
from benchmarks.forms import Form, in_layout
from benchmarks.measuring.machine import Machine
from benchmarks.measuring.measure import RowResult
from benchmarks.networks import layer_sets
from benchmarks.reporting.results import Part, file_name, load_parts
from benchmarks.works import WORKS
from benchmarks.works.row import FLOAT32_BYTES, Demand, Row

COPY_NUMBERS = 64 * 2**20
MATRIX_SIZES = {"cpu": 2048, "cuda": 8192}
IMAGES = {"cpu": (64, 256, 16, 16), "cuda": (64, 512, 64, 64)}  # of convolutions to as many channels
RUNS = 10


@dataclass(frozen=True)
class Rates:
    """What a machine reaches, measured.

    Args:
        bytes_per_second: read and written by a copy that no cache holds.
        operations_per_second: of the best of torch's matrix product and its convolutions.
        number_bytes: size of an operand's number.
    """

    bytes_per_second: float
    operations_per_second: float
    number_bytes: int = FLOAT32_BYTES


@dataclass(frozen=True)
class Achieved:
    """What ours reached on a row: rates, and the fraction of the floor's.

    Args:
        bound: what the floor is made of, "bytes" or "operations"; of several parts, most of it.
    """

    bytes_per_second: float
    operations_per_second: float
    floor_seconds: float
    bound: str
    fraction: float


def measured_rates(machine: Machine) -> Rates:
    """The rates of a machine, in the precision of its place."""
    with machine.place.settings():
        number_bytes = machine.place.dtype.itemsize
        return Rates(copy_bandwidth(machine), matrix_rate(machine), number_bytes)


def copy_bandwidth(machine: Machine) -> float:
    """Bytes read and written per second by a copy that no cache holds."""
    source = torch.ones(COPY_NUMBERS, device=machine.place.device)
    target = torch.zeros_like(source)
    form = Form("copy", lambda: (target.copy_(source),))
    return 2 * FLOAT32_BYTES * COPY_NUMBERS / min(machine.clock.seconds(form) for _ in range(RUNS))


def matrix_rate(machine: Machine) -> float:
    """Operations per second of the best of torch's matrix product and its convolutions: they differ by up to twice."""
    place, size = machine.place, MATRIX_SIZES[machine.place.device]
    generator = torch.Generator().manual_seed(0)
    left, right = (place.normal(generator, size, size) for _ in range(2))
    rates = [2 * size**3 / _least_seconds_of(machine, lambda: (left @ right,))]
    batch, channels, *image = IMAGES[place.device]
    images = in_layout(place.normal(generator, batch, channels, *image), "channels_last")
    for window in (1, 3):
        weight = in_layout(place.normal(generator, channels, channels, window, window), "channels_last")
        seconds = _least_seconds_of(machine, lambda weight=weight: (F.conv2d(images, weight, padding="same"),))
        rates.append(2 * images.numel() * weight[0].numel() / seconds)
    return max(rates)


def _least_seconds_of(machine: Machine, run: Callable[[], tuple[Tensor, ...]]) -> float:
    form = Form("product", run)
    return min(machine.clock.seconds(form) for _ in range(RUNS))


def achieved(row: Row, seconds: float, rates: Rates) -> Achieved:
    """What `seconds` for a row mean.

    Raises:
        ValueError: the traffic of the row is not modelled.
    """
    parts = _demands(row, rates)
    least, bound = _least_of(parts, rates)
    moved, operations = (sum(amounts) for amounts in zip(*parts))
    return Achieved(moved / seconds, operations / seconds, least, bound, least / seconds)


def least_seconds(row: Row, rates: Rates) -> tuple[float, str]:
    """The floor of a row, and what it is made of.

    Raises:
        ValueError: the traffic of the row is not modelled.
    """
    return _least_of(_demands(row, rates), rates)


def _least_of(parts: Sequence[Demand], rates: Rates) -> tuple[float, str]:
    """The floor of parts that run one after the other."""
    rate = {"bytes": rates.bytes_per_second, "operations": rates.operations_per_second}
    of_bound = dict.fromkeys(rate, 0.0)
    for part in parts:
        seconds, bound = least_time(part._asdict(), rate)
        of_bound[bound] += seconds
    return sum(of_bound.values()), max(of_bound, key=lambda bound: of_bound[bound])


def _demands(row: Row, rates: Rates) -> list[Demand]:
    """What each part of a row takes, in the precision of the rates."""
    if not row.is_modelled:
        raise ValueError(f"row {row.name!r} has no model of its traffic")
    parts = [Demand(row.traffic, row.operations)] if row.parts is None else row.parts()
    return [part._replace(bytes=part.bytes * rates.number_bytes / FLOAT32_BYTES) for part in parts]


def achieved_rows(part: Part, rates: Rates) -> list[tuple[Row, RowResult, Achieved]]:
    """Rows of a part whose traffic is modelled, with what they reached."""
    rows = {row.name: row for row in WORKS[part.work].rows(layer_sets()[part.layer_set])}
    modelled = [(rows[result.name], result) for result in part.rows if rows[result.name].is_modelled]
    return [(row, result, achieved(row, result.ours.seconds, rates)) for row, result in modelled]


def main(
    results: Annotated[Path, typer.Option(help="Folder of results that benchmarks.compare wrote.")] = RESULTS,
    device: Annotated[DeviceName, typer.Option(help="Where they were measured.")] = DeviceName.cpu,
    precision: Annotated[PrecisionName, typer.Option(help="Of which parts.")] = PrecisionName.float32,
) -> None:
    """Print the floor of every measured row and the fraction reached."""
    here = asked_machine(device, precision)
    rates = measured_rates(here)
    console = Console()
    copy, product = rates.bytes_per_second / 1e9, rates.operations_per_second / 1e9
    console.print(f"copy {copy:.1f} GB/s (read + written), matrix product {product:.0f} GFLOP/s")
    parts = [part for part in load_parts(results / file_name(here.place)) if part.precision == precision.value]
    if not parts:
        raise typer.BadParameter(f"no results in {results}; run python -m benchmarks.compare first")
    for part in parts:
        table = Table("row", "geometry", "floor, ms", "bound", "ours, ms", "fraction reached")
        table.title = part.title
        for row, result, reached in achieved_rows(part, rates):
            times = (f"{1e3 * reached.floor_seconds:.3g}", reached.bound, f"{1e3 * result.ours.seconds:.3g}")
            table.add_row(row.name, row.geometry, *times, f"{reached.fraction:.0%}")
        if table.row_count:
            console.print(table)


if __name__ == "__main__":
    typer.run(main)
