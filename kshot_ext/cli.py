"""The `kshot-ext` command: argument parsing only."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kshot_ext import backend
from kshot_ext.cli_options import (
    NUMBER,
    AnyNetwork,
    BatchSize,
    Cells,
    Channels,
    Config,
    Data,
    Device,
    Epochs,
    ImageSize,
    Json,
    LearningRate,
    MaxImages,
    Method,
    Network,
    Out,
    OwnMethod,
    OwnSpace,
    OwnTask,
    Precision,
    PrintConfig,
    Quiet,
    RayAddress,
    Resume,
    Run,
    Seed,
    Shots,
    Space,
    TaskName,
    Threads,
    Workers,
)

app = typer.Typer(
    help="K-shot neural architecture search.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _tell_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"kshot_ext {version('kshot_ext')}, torch {version('torch')}")
        raise typer.Exit


@app.callback()
def options(
    _: Annotated[
        bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="Tell the version, and torch's.")
    ] = False,
) -> None:
    """K-shot neural architecture search."""


@app.command()
def info() -> None:
    """Tell versions, extras, and which backend is in use, and why; builds the native kernels if need be."""
    from kshot_ext.nas.commands.info import info_rows

    console = Console()
    try:
        state, rows = backend.info(), info_rows()
    except backend.BackendError as error:
        console.print(f"error: {error}", style="red", markup=False)
        raise typer.Exit(1) from error
    table = Table(show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, Text(value))
    console.print(table)
    if state.error is not None:
        raise typer.Exit(1)


@app.command()
def search(
    data: Data = None,
    space: Space = None,
    widths: Annotated[
        str | None,
        typer.Option(help="Search channel widths too: shares such as 0.5,0.75,1, or tenths such as 0.2-1."),
    ] = None,
    bits: Annotated[
        str | None,
        typer.Option(
            help="Search bits of weights and activations too: numbers such as 2,4,8 for all pairs, "
            "or pairs such as w2a4,w4a8."
        ),
    ] = None,
    method: Method = None,
    task: TaskName = None,
    shots: Shots = None,
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    learning_rate: LearningRate = None,
    precision: Precision = None,
    retrain_epochs: Annotated[int | None, typer.Option(help="Epochs of training from scratch.", **NUMBER)] = None,
    retrain_seeds: Annotated[
        int | None, typer.Option(help="Times that the winner is trained from scratch; default 3.", **NUMBER)
    ] = None,
    rivals: Annotated[
        int | None, typer.Option(help="Random networks to compare the winner with; default 3.", **NUMBER)
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            help="Most multiply-accumulates for one image: 1.5e6, 1.5M, or 60% of the largest network's; default 60%."
        ),
    ] = None,
    bit_budget: Annotated[
        str | None,
        typer.Option(help="With --bits: most bit operations for one image, such as 2e9, 2G or 25%; default: no limit."),
    ] = None,
    truth: Annotated[
        Path | None,
        typer.Option(help="JSON table of stand-alone accuracies; the report then tells the search's rank correlation."),
    ] = None,
    workers: Workers = None,
    ray_address: RayAddress = None,
    seed: Seed = None,
    device: Device = None,
    channels: Channels = None,
    cells: Cells = None,
    image_size: ImageSize = None,
    max_images: MaxImages = None,
    out: Out = None,
    config: Config = None,
    resume: Resume = None,
    threads: Threads = None,
    quiet: Quiet = False,
    json: Json = False,
    print_config: PrintConfig = False,
) -> None:
    """Train a supernet, search it, train the winner and random rivals from scratch, and report."""
    from kshot_ext.nas.api.start import Resources
    from kshot_ext.nas.commands.frame import Output
    from kshot_ext.nas.commands.print_settings import print_settings
    from kshot_ext.nas.commands.search import search_command

    options = {
        "data": _text(data),
        "space": space,
        "widths": widths,
        "bits": bits,
        "method": method,
        "task": task,
        "shots": shots,
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "precision": precision,
        "retrain_epochs": retrain_epochs,
        "retrain_seeds": retrain_seeds,
        "rivals": rivals,
        "budget": budget,
        "bit_budget": bit_budget,
        "truth": _text(truth),
        "seed": seed,
        "device": device,
        "channels": channels,
        "cells": cells,
        "image_size": image_size,
        "max_images": max_images,
        "out": _text(out),
    }
    if print_config:
        raise typer.Exit(print_settings("search", options, config, resume))
    output = Output(quiet=quiet, json=json)
    raise typer.Exit(search_command(options, config, resume, Resources(workers, ray_address, threads), output))


@app.command()
def rank(
    data: Data = None,
    truth: Annotated[
        Path | None,
        typer.Option(help="JSON table of stand-alone accuracies by architecture, such as NAS-Bench-Macro's."),
    ] = None,
    space: Space = None,
    method: Method = None,
    task: TaskName = None,
    shots: Shots = None,
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    learning_rate: LearningRate = None,
    precision: Precision = None,
    seed: Seed = None,
    architectures: Annotated[
        int | None, typer.Option(help="How many architectures of the table to evaluate; default 300.", **NUMBER)
    ] = None,
    checkpoints: Annotated[
        int | None,
        typer.Option(help="Evaluate at this many points of training, evenly spread; default 1, the end.", **NUMBER),
    ] = None,
    workers: Workers = None,
    ray_address: RayAddress = None,
    device: Device = None,
    channels: Channels = None,
    cells: Cells = None,
    image_size: ImageSize = None,
    max_images: MaxImages = None,
    keep_warm_up: Annotated[
        bool | None,
        typer.Option("--keep-warm-up", help="Keep the state at the end of warm-up, for other runs to begin from."),
    ] = None,
    warm_up: Annotated[
        Path | None,
        typer.Option(help="Run folder of one copy with a kept warm-up, equal but for its codes, to begin from."),
    ] = None,
    results: Annotated[
        Path | None, typer.Option(help="JSON file of many runs' results to add this one's to, whose other runs stay.")
    ] = None,
    out: Out = None,
    config: Config = None,
    resume: Resume = None,
    threads: Threads = None,
    quiet: Quiet = False,
    json: Json = False,
    print_config: PrintConfig = False,
) -> None:
    """Train a supernet and compare how it ranks architectures with a table of their stand-alone accuracies."""
    from kshot_ext.nas.api.start import Resources
    from kshot_ext.nas.commands.frame import Output
    from kshot_ext.nas.commands.print_settings import print_settings
    from kshot_ext.nas.commands.rank import rank_command

    options = {
        "data": _text(data),
        "truth": _text(truth),
        "space": space,
        "method": method,
        "task": task,
        "shots": shots,
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "precision": precision,
        "seed": seed,
        "architectures": architectures,
        "checkpoints": checkpoints,
        "device": device,
        "channels": channels,
        "cells": cells,
        "image_size": image_size,
        "max_images": max_images,
        "keep_warm_up": keep_warm_up,
        "warm_up": _text(warm_up),
        "results": _text(results),
        "out": _text(out),
    }
    if print_config:
        raise typer.Exit(print_settings("rank", options, config, resume))
    output = Output(quiet=quiet, json=json)
    raise typer.Exit(rank_command(options, config, resume, Resources(workers, ray_address, threads), output))


@app.command()
def methods() -> None:
    """List the search methods: what each does, and whose it is."""
    from kshot_ext.nas.methods import METHODS

    table = Table()
    table.add_column("method", no_wrap=True)
    table.add_column("what it does", overflow="fold")
    table.add_column("paper", overflow="fold")
    for name, kind in METHODS.items():
        table.add_row(name, Text(kind.summary), Text(kind.paper))
    Console().print(table)


@app.command()
def retrain(
    run: Run,
    architecture: Network = "winner",
    epochs: Annotated[
        int | None, typer.Option(help="Epochs of the training; default: as of the search's networks.", **NUMBER)
    ] = None,
    seed: Annotated[int, typer.Option(help="Decides everything random in the training; default 0.", **NUMBER)] = 0,
    out: Annotated[
        Path | None, typer.Option(help="Folder to create; default: retrained/ in the run's, then the key.")
    ] = None,
    space: OwnSpace = None,
    task: OwnTask = None,
    method: OwnMethod = None,
    threads: Threads = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Train any network of a search from scratch, or go on with that."""
    from kshot_ext.nas.commands.frame import Output
    from kshot_ext.nas.commands.retrain import retrain_command

    raise typer.Exit(
        retrain_command(
            run,
            architecture,
            epochs=epochs,
            seed=seed,
            out=out,
            space=space,
            task=task,
            method=method,
            threads=threads,
            output=Output(quiet=quiet, json=json),
        )
    )


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="Run folder of search, or of retrain.")],
    architecture: AnyNetwork = None,
    format: Annotated[
        str, typer.Option(help="pt2 of torch.export (default), onnx, or safetensors, which are weights alone.")
    ] = "pt2",
    weights: Annotated[
        str | None,
        typer.Option(help="trained from scratch, or inherited from the supernet; default: trained, where there are."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="File to write; default: export/ in the run's folder.")] = None,
    space: OwnSpace = None,
    task: OwnTask = None,
    method: OwnMethod = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Write a network of a search with its preprocessing as a file, and tell how it is used."""
    from kshot_ext.nas.commands.export import export_command
    from kshot_ext.nas.commands.frame import Output

    raise typer.Exit(
        export_command(
            run,
            architecture,
            format=format,
            weights=weights,
            out=out,
            space=space,
            task=task,
            method=method,
            output=Output(quiet=quiet, json=json),
        )
    )


@app.command()
def analyse(
    run: Annotated[Path, typer.Argument(help="Run folder of search or rank, finished or not.")],
    space: Annotated[
        str | None, typer.Option(help="FILE.py:CLASS, if the run's space is one of your own: this runs the file.")
    ] = None,
    method: Annotated[str | None, typer.Option(help="The same for a method of your own.")] = None,
) -> None:
    """Tell how many dimensions a run's weights span, and whether its codes follow architectures."""
    from kshot_ext.nas.commands.analyse import analyse_command

    raise typer.Exit(analyse_command(run, space, method))


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(help="Run folder of search or rank, finished or not.")],
    second: Annotated[Path, typer.Argument(help="Another one.")],
    out: Annotated[Path | None, typer.Option(help="Page to write; default: compare-, then the runs' names.")] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(help="FILE.py:CLASS, if a run's method is one of your own: this runs the file; once for each."),
    ] = None,
) -> None:
    """Show two runs side by side: settings that differ, results, numbers over time."""
    from kshot_ext.nas.commands.compare import compare_command

    raise typer.Exit(compare_command(first, second, out, method or ()))


@app.command()
def truth(
    table: Annotated[Path, typer.Argument(help="Published table: .json, .csv, or NAS-Bench-201's .pth.")],
    out: Annotated[Path, typer.Option(help="JSON file to write, for --truth of rank and search.")],
    space: Annotated[str, typer.Option(help="Search space of the table, or FILE.py:CLASS.")] = "nas-bench-201",
    column: Annotated[
        str | None, typer.Option(help="Name of the accuracies; default: mean_acc, or the only column of numbers.")
    ] = None,
    dataset: Annotated[
        str, typer.Option(help="Of a .pth: cifar10 (default), cifar10-valid, cifar100 or ImageNet16-120.")
    ] = "cifar10",
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Convert a published table of stand-alone accuracies to the form that --truth takes; runs no code of the file."""
    from kshot_ext.nas.commands.frame import Output
    from kshot_ext.nas.commands.truth import truth_command

    raise typer.Exit(truth_command(table, space, out, column, dataset, Output(quiet=quiet, json=json)))


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)
