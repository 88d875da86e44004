"""How well latency is predicted from timed parts: `python -m benchmarks.latency --help`.

The prediction of `kshot_ext.nas.searchers.latency_table` against the time of whole networks drawn at random.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.measuring.environment import environment
from benchmarks.place import CPU
from benchmarks.reporting.results import write_json
from kshot_ext.nas.searchers.latency_table import LatencyTable
from kshot_ext.nas.spaces import create_space

RESULTS = Path(__file__).resolve().parent / "results" / "latency.json"
IMAGES = {"nas-bench-macro": 32, "nas-bench-201": 32, "mobilenet-v2-se": 224, "shufflenet-v2": 224}


def predictions(
    images: Mapping[str, int], networks: int, batch_size: int, seconds: float
) -> list[dict[str, str | int | float]]:
    """Errors of the predictions, space by space.

    Args:
        images: spaces by name, and the size of their images.
        networks: how many to draw from each.
        batch_size: images in a pass.
        seconds: time spent on each part and each network.
    """
    rows = []
    for name, size in images.items():
        space = create_space(name, image_shape=(3, size, size), num_classes=10)
        generator = torch.Generator().manual_seed(0)
        table = LatencyTable(space, batch_size=batch_size, seconds=seconds)
        error = table.error([space.sample(generator) for _ in range(networks)])
        rows.append({"space": name, "image_size": size, "batch_size": batch_size, **dataclasses.asdict(error)})
    return rows


def main(
    networks: Annotated[int, typer.Option(min=1, help="Networks drawn from each space.")] = 20,
    batch_size: Annotated[int, typer.Option(min=1, help="Images in a pass.")] = 16,
    seconds: Annotated[float, typer.Option(help="Time spent on each part and each network.")] = 0.1,
    out: Annotated[Path, typer.Option(help="Result file.")] = RESULTS,
) -> None:
    """Print and write the mean and the worst error of each space."""
    rows = predictions(IMAGES, networks, batch_size, seconds)
    table = Table("space", "mean error", "worst", "networks", title=f"predicted latency, batch {batch_size}")
    for row in rows:
        table.add_row(row["space"], f"{row['mean']:.1%}", f"{row['worst']:.1%}", str(row["networks"]))
    Console().print(table)
    write_json(out, {"environment": environment(CPU), "seconds": seconds, "rows": rows})


if __name__ == "__main__":
    typer.run(main)
