"""Measure ours against every peer: `python -m benchmarks.compare --help`."""

from __future__ import annotations

import dataclasses
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from benchmarks.measuring.environment import environment
from benchmarks.measuring.machine import Machine, machine
from benchmarks.measuring.measure import Settings, measure
from benchmarks.measuring.timing import noise
from benchmarks.networks import layer_sets
from benchmarks.place import PRECISIONS, Place
from benchmarks.reporting.plot import plot_speedups
from benchmarks.reporting.report import noise_line, row_table, target_table
from benchmarks.reporting.results import Part, file_name, load_parts, save_part
from benchmarks.reporting.targets import reached
from benchmarks.works import WORKS

RESULTS = Path(__file__).resolve().parent / "results"
QUICK_PAIRS = 3

WorkName = Enum("WorkName", {name: name for name in WORKS})
SetName = Enum("SetName", {name: name for name in layer_sets()})
PrecisionName = Enum("PrecisionName", {name: name for name in PRECISIONS})
DeviceName = Enum("DeviceName", {name: name for name in ("cpu", "cuda")})


def main(
    work: Annotated[list[WorkName] | None, typer.Option(help="Only these works.")] = None,
    set_: Annotated[list[SetName] | None, typer.Option("--set", help="Only these layer sets.")] = None,
    pairs: Annotated[int, typer.Option(min=1, help="Interleaved pairs per row.")] = 15,
    compiled: Annotated[bool, typer.Option(help="Let forms behind torch.compile compete.")] = True,
    memory: Annotated[bool, typer.Option(help="Measure peak memory.")] = True,
    quick: Annotated[bool, typer.Option(help="3 pairs, nothing compiled: to try the suite, not to report.")] = False,
    device: Annotated[DeviceName, typer.Option(help="Where to measure.")] = DeviceName.cpu,
    precision: Annotated[PrecisionName, typer.Option(help="tf32: float32 operands.")] = PrecisionName.float32,
    out: Annotated[Path, typer.Option(help="Folder for results; parts measured before stay.")] = RESULTS,
) -> None:
    """Compare kshot_ext with plain PyTorch, row by row; write a result file and a plot, cpu.json and cpu.png."""
    settings = Settings(QUICK_PAIRS if quick else pairs, compiled and not quick, memory)
    here = asked_machine(device, precision)
    path = out / file_name(here.place)
    load_parts(path)  # a file that cannot be extended should show before the measuring, not after
    console = Console()
    for name, set_name in asked_parts(work, set_, precision.value):
        if not WORKS[name].rows(layer_sets()[set_name]):  # of a library that is not installed, as the work says
            continue
        part = measure_part(name, set_name, settings, here, console)
        save_part(path, part)
    parts = load_parts(path)
    if not parts:
        raise typer.BadParameter("none of the works asked for is measured on these layer sets, in this precision")
    plot_speedups(parts, path.with_suffix(".png"))
    console.print(target_table(reached(parts)))


def asked_machine(device: DeviceName, precision: PrecisionName) -> Machine:
    """The machine of the command line."""
    try:
        return machine(Place(device.value, precision.value))
    except (ValueError, RuntimeError) as error:
        raise typer.BadParameter(str(error)) from error


def asked_parts(works: list[WorkName] | None, sets: list[SetName] | None, precision: str) -> list[tuple[str, str]]:
    """Work and layer set of each part: a work is measured on its own sets, of which `sets` may pick some."""
    asked = [WORKS[choice.value] for choice in works or WorkName]
    names = [choice.value for choice in sets or SetName]
    return [(work.name, name) for work in asked if precision in work.precisions for name in work.sets if name in names]


def measure_part(work: str, set_name: str, settings: Settings, machine: Machine, console: Console) -> Part:
    """Measure all rows of a work on a layer set, and print them."""
    rows = WORKS[work].rows(layer_sets()[set_name])
    results = []
    with machine.place.settings():
        machine_noise = noise(settings.pairs, machine.place, machine.clock)
        with Progress(console=console, transient=True) as progress:
            for row in progress.track(rows, description=f"{work}, {set_name}"):
                results.append(measure(work, set_name, row, settings, machine))
    origin = {**environment(machine.place), "settings": dataclasses.asdict(settings)}
    part = Part(work, set_name, settings.pairs, machine_noise, origin, results)
    console.print(row_table(part))
    console.print(noise_line(part.noise))
    return part


if __name__ == "__main__":
    typer.run(main)
