"""All works on a GPU, in one JSON: `python -m benchmarks.gpu_report --help`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, NoReturn

import torch
import typer
from rich.console import Console

from benchmarks.compare import QUICK_PAIRS, RESULTS, PrecisionName, SetName, WorkName, asked_parts, measure_part
from benchmarks.floors import measured_rates
from benchmarks.measuring import gpu
from benchmarks.measuring.environment import environment
from benchmarks.measuring.machine import Machine, machine
from benchmarks.measuring.measure import Settings
from benchmarks.place import Place
from benchmarks.reporting.details import is_complete, means, part_details
from benchmarks.reporting.plot import plot_speedups
from benchmarks.reporting.results import file_name, load_document, load_parts, save_part, save_sections

PRECISIONS = [PrecisionName.tf32, PrecisionName.bfloat16]
INCOMPLETE, REFUSED = 1, 2  # exit codes


def main(
    work: Annotated[list[WorkName] | None, typer.Option(help="Only these works.")] = None,
    set_: Annotated[list[SetName] | None, typer.Option("--set", help="Only these layer sets.")] = None,
    precision: Annotated[
        list[PrecisionName] | None, typer.Option(help="tf32: of float32 operands. Default: tf32 and bfloat16.")
    ] = None,
    pairs: Annotated[int, typer.Option(min=1, help="Interleaved pairs per row.")] = 15,
    compiled: Annotated[bool, typer.Option(help="Let forms behind torch.compile compete.")] = True,
    quick: Annotated[bool, typer.Option(help="3 pairs, nothing compiled: to try it, not to report.")] = False,
    fresh: Annotated[bool, typer.Option(help="Measure again what the report has already.")] = False,
    output: Annotated[Path | None, typer.Option(help="The report; default: results/gpu_MODEL.json.")] = None,
) -> None:
    """Compare kshot_ext with plain PyTorch on a GPU; a run that was cut off goes on where it stopped."""
    if not gpu.available():
        _refuse(f"expected a CUDA device that torch {torch.__version__} can use, got none")
    path = output or RESULTS / file_name(Place("cuda"))
    claim(path, gpu.description())
    settings = Settings(QUICK_PAIRS if quick else pairs, compiled and not quick)
    console = Console()
    failures = []
    for choice in precision or PRECISIONS:
        here = machine(Place("cuda", choice.value))
        failures += report(here, asked_parts(work, set_, choice.value), settings, path, console, fresh)
    parts = load_parts(path)
    save_sections(path, means=means(parts))
    if parts:
        plot_speedups(parts, path.with_suffix(".png"))
    console.print(f"wrote {path}")
    if failures:
        console.print(f"{len(failures)} rows failed; the next run tries their parts again")
        raise typer.Exit(INCOMPLETE)


def claim(path: Path, device: dict[str, object]) -> None:
    """Begin or go on with the report of a device; exit if the file is something else."""
    try:
        before = load_document(path).get("device", {"name": None if path.exists() else device["name"]})
    except ValueError as error:
        _refuse(str(error))
    if before["name"] != device["name"]:
        _refuse(f"expected {path} to be a report of {device['name']}, got one of {before['name'] or 'no GPU'}")
    save_sections(path, device=device)


def report(
    here: Machine, asked: list[tuple[str, str]], settings: Settings, path: Path, console: Console, fresh: bool
) -> list[str]:
    """Bring parts, each a work and a layer set, into the report; return what failed."""
    rates = measured_rates(here)
    precision = here.place.precision
    save_sections(path, rates={**load_document(path).get("rates", {}), precision: dataclasses.asdict(rates)})
    failures = []
    for work, set_name in asked:
        key = (work, set_name, precision)
        if not fresh and is_complete(load_document(path), key, environment(here.place), settings):
            console.print(f"{', '.join(key)}: measured before")
            continue
        failed: list[str] = []
        part = measure_part(work, set_name, settings, here, console, failed)
        details = {"failed": failed, "rows": part_details(part, rates, here)}
        save_part(path, part)
        save_sections(path, details={**load_document(path).get("details", {}), ", ".join(key): details})
        for failure in failed:
            console.print(f"{', '.join(key)}, {failure}", style="red", markup=False)
        failures += failed
    return failures


def _refuse(reason: str) -> NoReturn:
    Console(stderr=True).print(reason, markup=False, soft_wrap=True)
    raise typer.Exit(REFUSED)


if __name__ == "__main__":
    typer.run(main)
