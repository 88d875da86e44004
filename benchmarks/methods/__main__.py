"""Search methods measured: `python -m benchmarks.methods run`, `... show` and `... observable NAME`."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from benchmarks.compare import RESULTS
from benchmarks.methods import comparison
from benchmarks.ranking import add_gathered
from benchmarks.ranking_nb201 import seeds_of
from benchmarks.reporting.plot import save_figure
from kshot_ext.nas.files import write_text
from kshot_ext.nas.methods import METHODS
from kshot_ext.nas.runs.results_file import read_results
from kshot_ext.nas.strict_json import strict_json
from kshot_ext.nas.tables import read_toml

app = typer.Typer(help=__doc__, add_completion=False)

_WIDTH = 160  # of tables that go to a file or a pipe

Seeds = Annotated[str, typer.Option(help="Such as 0-4 or 0,3.")]
Data = Annotated[Path | None, typer.Option(help="CIFAR-10's training images: an image folder or a zip of one.")]


@app.command()
def run(
    truth: Annotated[list[str], typer.Option(help="A space and its table, SPACE=FILE; once for each space.")],
    runs: Annotated[Path, typer.Option(help="Folder of the run folders; finished runs are not done again.")],
    data: Data = None,
    seeds: Seeds = "0-2",
    methods: Annotated[str, typer.Option(help="Names with commas; default: all.")] = "",
    config: Annotated[Path, typer.Option(help="Settings that all runs have.")] = comparison.CONFIG,
) -> None:
    """Train, rank and select with each method in each space with each seed, a process each, one after the other."""
    wanted, failed = known_methods(methods), []
    for seed in seeds_of(seeds):
        for space, table in map(space_and_table, truth):
            for method in wanted:
                place = runs / space / f"{method}-{seed}"
                options = {"space": space, "method": method, "truth": table, "seed": str(seed), "config": str(config)}
                options |= {} if data is None else {"data": str(data)}
                if measured_apart(place, options) != 0:
                    failed.append(str(place))
    if failed:
        typer.echo(f"not finished, for the reasons above: {', '.join(failed)}", err=True)
        raise typer.Exit(1)


def measured_apart(place: Path, options: dict[str, str]) -> int:
    """Exit status of a process of its own that does a run: so its peak memory is that of the run alone."""
    arguments = [text for name, value in options.items() for text in (f"--{name}", value)]
    return subprocess.run([sys.executable, "-m", "benchmarks.methods", "one", str(place), *arguments]).returncode


@app.command(hidden=True)
def one(
    place: Annotated[Path, typer.Argument(help="The run folder.")],
    space: Annotated[str, typer.Option()],
    method: Annotated[str, typer.Option()],
    truth: Annotated[Path, typer.Option()],
    seed: Annotated[int, typer.Option()],
    config: Annotated[Path, typer.Option()],
    data: Annotated[Path | None, typer.Option()] = None,
) -> None:
    """Do a single run, or what is left of it."""
    options = comparison.options_of(read_toml(config), space, method)
    options |= {"truth": str(truth), "seed": seed, "data": None if data is None else str(data)}
    raise typer.Exit(comparison.measure(place, options))


@app.command()
def show(
    runs: Annotated[Path | None, typer.Option(help="Folder of the run folders to gather first.")] = None,
    results: Annotated[Path, typer.Option(help="File of results.")] = RESULTS / "methods.json",
    out: Annotated[Path, typer.Option(help="Picture.")] = RESULTS / "methods.png",
) -> None:
    """Gather the runs' numbers beside those of the file, print the table, and draw the picture."""
    if runs is not None:
        add_gathered(results, comparison.gather(runs), ("space", "method", "seed"))
    entries = read_results(results)
    if not entries:
        raise typer.BadParameter(f"{results}: expected finished runs, got none")
    console = Console()
    console = console if console.is_terminal else Console(width=_WIDTH)
    console.print(comparison.table_of(entries))
    save_figure(comparison.plot(entries), out)
    console.print(f"wrote {out}")


@app.command()
def observable(
    name: Annotated[str, typer.Argument(help="A method; what it measures is benchmarks/methods/NAME.py.")],
    data: Data = None,
    truth: Annotated[Path | None, typer.Option(help="A table of true accuracies, where one is needed.")] = None,
    seeds: Seeds = "0-2",
    quick: Annotated[bool, typer.Option(help="In seconds, to see that it runs.")] = False,
    results: Annotated[Path | None, typer.Option(help="File of results; default: by the name.")] = None,
) -> None:
    """Measure what a method should show, and write the numbers."""
    measurement = measurement_of(name)
    given: dict[str, Any] = {"data": data, "truth": truth}
    taken = {key: value for key, value in given.items() if key in inspect.signature(measurement).parameters}
    unused = [key for key, value in given.items() if value is not None and key not in taken]
    if unused:
        raise typer.BadParameter(f"{name}: its measurement needs no {' and no '.join(unused)}")
    numbers = measurement(seeds=seeds_of(seeds), quick=quick, **taken)
    file = results or RESULTS / "methods" / f"{name}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, strict_json(numbers, indent=1) + "\n")
    typer.echo(strict_json(numbers, indent=1))
    typer.echo(f"wrote {file}")


def measurement_of(name: str) -> Callable[..., dict[str, Any]]:
    """The function that measures a method, ``run`` of its module beside this one.

    Raises:
        typer.BadParameter: if there is none, listing those there are.
    """
    present = sorted(path.stem for path in Path(__file__).parent.glob("*.py"))
    known = [method for method in METHODS if _module(method) in present]
    if name not in known:
        raise typer.BadParameter(f"expected one of {', '.join(known) or 'none yet'}, got {name}")
    return importlib.import_module(f"benchmarks.methods.{_module(name)}").run


def _module(method: str) -> str:
    return method.replace("-", "_")


def known_methods(names: str) -> list[str]:
    """Methods by their names with commas; all if none is named."""
    wanted = names.split(",") if names else list(METHODS)
    unknown = [name for name in wanted if name not in METHODS]
    if unknown:
        raise typer.BadParameter(f"methods: expected some of {', '.join(METHODS)}, got {', '.join(unknown)}")
    return wanted


def space_and_table(text: str) -> tuple[str, str]:
    """The two parts of ``SPACE=FILE``.

    Example:
        >>> space_and_table("nas-bench-201=tables/half.json")
        ('nas-bench-201', 'tables/half.json')
    """
    space, sign, file = text.partition("=")
    if not sign or not file:
        raise typer.BadParameter(f"truth: expected SPACE=FILE, got {text}")
    return space, file


if __name__ == "__main__":
    app()
