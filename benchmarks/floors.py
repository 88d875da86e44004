"""Least time of each row on this machine, and the fraction of it that ours reaches: `python -m benchmarks.floors`.

The floor is the longer of bytes over measured copy bandwidth and operations over measured matrix rate.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch.nn import functional as F

from benchmarks.compare import RESULTS
from benchmarks.cost import least_time
from benchmarks.forms import Form
from benchmarks.networks import layer_sets
from benchmarks.results import FILE_NAME, load_parts
from benchmarks.timing import seconds
from benchmarks.works import WORKS
from benchmarks.works.row import FLOAT32_BYTES, Row

COPY_NUMBERS = 64 * 2**20
MATRIX_SIZE = 2048
RUNS = 10


def copy_bandwidth() -> float:
    """Bytes read and written per second by a copy that no cache holds."""
    source = torch.ones(COPY_NUMBERS)
    target = torch.zeros(COPY_NUMBERS)
    form = Form("copy", lambda: (target.copy_(source),))
    return 2 * FLOAT32_BYTES * COPY_NUMBERS / min(seconds(form) for _ in range(RUNS))


def matrix_rate() -> float:
    """Operations per second of the better of torch's matrix product and oneDNN's 1x1 convolution."""
    size = MATRIX_SIZE
    left, right = (torch.randn(size, size, generator=torch.Generator().manual_seed(0)) for _ in range(2))
    image = left.reshape(1, size, size, 1).permute(0, 2, 1, 3).contiguous(memory_format=torch.channels_last)
    weight = right.reshape(size, size, 1, 1)
    forms = (Form("mm", lambda: (left @ right,)), Form("conv", lambda: (F.conv2d(image, weight),)))
    return 2 * size**3 / min(seconds(form) for form in forms for _ in range(RUNS))


def floor(row: Row, bandwidth: float, rate: float) -> tuple[float, str]:
    """Least time of a row whose traffic is modelled, and what bounds it, "bytes" or "operations"."""
    if row.traffic is None:
        raise ValueError(f"row {row.name!r} has no model of its traffic")
    demands = {"bytes": row.traffic, "operations": row.operations}
    return least_time(demands, {"bytes": bandwidth, "operations": rate})


def main(
    results: Annotated[Path, typer.Option(help="Folder of results that benchmarks.compare wrote.")] = RESULTS,
) -> None:
    """Print the floor of every measured row and the fraction reached."""
    bandwidth, rate = copy_bandwidth(), matrix_rate()
    console = Console()
    console.print(f"copy {bandwidth / 1e9:.1f} GB/s (read + written), matrix product {rate / 1e9:.0f} GFLOP/s")
    parts = load_parts(results / FILE_NAME)
    if not parts:
        raise typer.BadParameter(f"no results in {results}; run python -m benchmarks.compare first")
    for part in parts:
        rows = {row.name: row for row in WORKS[part.work].rows(layer_sets()[part.layer_set])}
        table = Table("row", "geometry", "floor, ms", "bound", "ours, ms", "fraction reached")
        table.title = f"{part.work}, {part.layer_set}"
        for result in part.rows:
            row = rows[result.name]
            if row.traffic is None:
                continue
            least, bound = floor(row, bandwidth, rate)
            times = (f"{1e3 * least:.3g}", bound, f"{1e3 * result.ours.seconds:.3g}")
            table.add_row(row.name, row.geometry, *times, f"{least / result.ours.seconds:.0%}")
        if table.row_count:
            console.print(table)


if __name__ == "__main__":
    typer.run(main)
