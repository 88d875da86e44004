"""Measure ours against every peer: `python -m benchmarks.compare --help`."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from benchmarks.environment import environment
from benchmarks.measure import Settings, measure
from benchmarks.networks import layer_sets
from benchmarks.plot import plot_speedups
from benchmarks.report import noise_line, row_table, target_table
from benchmarks.results import FILE_NAME, Part, load_parts, save_part
from benchmarks.targets import reached
from benchmarks.timing import noise
from benchmarks.works import WORKS

RESULTS = Path(__file__).resolve().parent / "results"
QUICK_PAIRS = 3

WorkName = Enum("WorkName", {name: name for name in WORKS})
SetName = Enum("SetName", {name: name for name in layer_sets()})


def main(
    work: Annotated[list[WorkName] | None, typer.Option(help="Only these works.")] = None,
    set_: Annotated[list[SetName] | None, typer.Option("--set", help="Only these layer sets.")] = None,
    pairs: Annotated[int, typer.Option(min=1, help="Interleaved pairs per row.")] = 15,
    compiled: Annotated[bool, typer.Option(help="Let forms behind torch.compile compete.")] = True,
    memory: Annotated[bool, typer.Option(help="Measure peak memory.")] = True,
    quick: Annotated[bool, typer.Option(help="3 pairs, nothing compiled: to try the suite, not to report.")] = False,
    out: Annotated[Path, typer.Option(help="Folder for results; parts measured before stay.")] = RESULTS,
) -> None:
    """Compare kshot_ext with plain PyTorch, row by row; write cpu.json and cpu.png."""
    settings = Settings(QUICK_PAIRS if quick else pairs, compiled and not quick, memory)
    load_parts(out / FILE_NAME)  # a file that cannot be extended should show before the measuring, not after
    console = Console()
    asked_works = [choice.value for choice in work or WorkName]
    for name in asked_works:
        for set_name in _sets(name, set_):
            part = measure_part(name, set_name, settings, console)
            parts = save_part(out / FILE_NAME, part)
            console.print(row_table(part))
            console.print(noise_line(part.noise))
    parts = load_parts(out / FILE_NAME)
    if not parts:
        raise typer.BadParameter(f"none of the works {', '.join(asked_works)} is measured on these layer sets")
    plot_speedups(parts, (out / FILE_NAME).with_suffix(".png"))
    console.print(target_table(reached(parts)))


def measure_part(work: str, set_name: str, settings: Settings, console: Console) -> Part:
    """Measure all rows of a work on a layer set."""
    machine_noise = noise(settings.pairs)
    rows = WORKS[work].rows(layer_sets()[set_name])
    results = []
    with Progress(console=console, transient=True) as progress:
        for row in progress.track(rows, description=f"{work}, {set_name}"):
            results.append(measure(work, set_name, row, settings))
    return Part(work, set_name, settings.pairs, machine_noise, environment(), results)


def _sets(work: str, asked: list[SetName] | None) -> list[str]:
    """Layer sets to measure a work on: its own, of which `asked` may pick some."""
    own = WORKS[work].sets
    return [name for name in own if asked is None or name in [choice.value for choice in asked]]


if __name__ == "__main__":
    typer.run(main)
