"""All works on a GPU, in one JSON: `python -m benchmarks.gpu_report --help`."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, NoReturn

import torch
import typer
from rich.console import Console

from benchmarks.compare import QUICK_PAIRS, RESULTS, PrecisionName, SetName, WorkName, asked_parts
from benchmarks.floors import Rates, measured_rates
from benchmarks.measuring import gpu
from benchmarks.measuring.agenda import Item, Key, agenda
from benchmarks.measuring.environment import environment
from benchmarks.measuring.machine import Machine, machine
from benchmarks.measuring.measure import Settings, measure
from benchmarks.measuring.timing import noise
from benchmarks.place import Place
from benchmarks.reporting.details import goes_on, means, row_details
from benchmarks.reporting.plot import plot_speedups
from benchmarks.reporting.results import (
    Part,
    as_json,
    file_name,
    load_document,
    load_parts,
    save_sections,
    with_part,
    with_row,
)

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
    budget: Annotated[
        float | None, typer.Option(min=0, help="Seconds to spend; no row begins that would outlast them.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="The report; default: results/gpu_MODEL.json.")] = None,
) -> None:
    """Compare kshot_ext with plain PyTorch on a GPU, rows that tell most first.

    Each row is saved as soon as it is measured; a run that was cut off, or whose budget is spent, goes on there.
    """
    begin = time.monotonic()
    if not gpu.available():
        _refuse(f"expected a CUDA device that torch {torch.__version__} can use, got none")
    path = output or RESULTS / file_name(Place("cuda"))
    claim(path, gpu.description())
    settings = Settings(QUICK_PAIRS if quick else pairs, compiled and not quick)
    console = Console()
    names = [choice.value for choice in precision or PRECISIONS]
    machines = {name: machine(Place("cuda", name)) for name in names}
    asked = [(*part, name) for name in names for part in asked_parts(work, set_, name)]
    until = None if budget is None else begin + budget
    failures, left = report(machines, asked, settings, path, console, fresh=fresh, until=until)
    parts = load_parts(path)
    save_sections(path, means=means(parts))
    if parts:
        plot_speedups(parts, path.with_suffix(".png"))
    console.print(f"wrote {path}")
    if left:
        console.print(f"the budget is spent; {left} rows are left for the next run")
    if failures:
        console.print(f"{len(failures)} rows failed; the next run tries them again")
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
    machines: Mapping[str, Machine],
    asked: Sequence[Key],
    settings: Settings,
    path: Path,
    console: Console,
    *,
    fresh: bool = False,
    until: float | None = None,
    now: Callable[[], float] = time.monotonic,
) -> tuple[list[str], int]:
    """Bring the rows of parts into the report, each saved as soon as it is measured.

    Args:
        machines: by precision.
        asked: the parts: work, layer set, precision.
        fresh: whether to measure again what the report has.
        until: the time of `now` that no row is expected to outlast, by the longest one before it.

    Returns:
        What failed, and how many rows are left.
    """
    origins = {name: environment(here.place) for name, here in machines.items()}
    before = {} if fresh else {part.key: part for part in load_parts(path)}
    kept = {key: before[key] for key in asked if key in before and goes_on(before[key], origins[key[2]], settings)}
    rates = {name: measured_rates(here) for name, here in machines.items()}
    told = {name: dataclasses.asdict(found) for name, found in rates.items()}
    save_sections(path, rates={**load_document(path).get("rates", {}), **told})
    every = agenda(asked, rates)
    done = {(key, row.name) for key, part in kept.items() for row in part.rows}
    todo = [item for item in every if (item.key, item.row.name) not in done]
    console.print(f"{len(every) - len(todo)} of {len(every)} rows measured before, {len(todo)} to measure")

    failures: list[str] = []
    begin, longest = now(), 0.0
    for count, item in enumerate(todo, start=1):
        started = now()
        if until is not None and started + longest > until:
            return failures, len(todo) - count + 1
        here = machines[item.key[2]]
        before = kept.get(item.key)
        part = before or new_part(item.key, settings, here, origins[item.key[2]])
        kept[item.key], details, failure = _measured(item, part, rates[item.key[2]], here)
        _save(path, kept[item.key], item, details, failure, begins=before is None)
        if failure:
            failures.append(f"{', '.join(item.key)}, {failure}")
            console.print(failures[-1], style="red", markup=False)
        longest = max(longest, now() - started)
        left = len(todo) - count
        console.print(
            f"{count} of {len(todo)}: {', '.join(item.key)}, {item.row.name} in {now() - started:.1f} s; "
            f"{left} rows left, about {(now() - begin) / count * left / 60:.0f} min",
            markup=False,
        )
    return failures, 0


def new_part(key: Key, settings: Settings, here: Machine, origin: dict[str, object]) -> Part:
    """A part without rows."""
    with here.place.settings():
        machine_noise = noise(settings.pairs, here.place, here.clock)
    return Part(*key[:2], settings.pairs, machine_noise, {**origin, "settings": dataclasses.asdict(settings)}, [])


def _measured(item: Item, part: Part, rates: Rates, here: Machine) -> tuple[Part, dict[str, object], str]:
    """The part with one row more and the details of that row; or as it was, and why the row failed."""
    settings = Settings(**part.environment["settings"])  # no weaker than asked, and alike in all rows of a part
    try:
        with here.place.settings():
            result = measure(*item.key[:2], item.row, settings, here)
            return with_row(part, result), row_details(item.row, result, rates, here), ""
    except (RuntimeError, ValueError) as error:
        return part, {}, f"{item.row.name}: {error}"


def _save(path: Path, part: Part, item: Item, details: dict[str, object], failure: str, begins: bool) -> None:
    """Put a row into the report, or that it failed: all that concerns it in one write.

    `begins`: it is the first of its part, so that what the report says of an earlier part of that key goes.
    """
    title = ", ".join(item.key)
    whole = load_document(path).get("details", {})
    old = {"failed": [], "rows": []} if begins else whole[title]
    failed = [line for line in old["failed"] if not line.startswith(f"{item.row.name}: ")]
    rows = [row for row in old["rows"] if row["name"] != item.row.name]
    new = {"failed": [*failed, failure], "rows": rows} if failure else {"failed": failed, "rows": [*rows, details]}
    save_sections(path, parts=as_json(with_part(load_parts(path), part)), details={**whole, title: new})


def _refuse(reason: str) -> NoReturn:
    Console(stderr=True).print(reason, markup=False, soft_wrap=True)
    raise typer.Exit(REFUSED)


if __name__ == "__main__":
    typer.run(main)
