"""The `kshot-ext` command: argument parsing only."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from kshot_ext import backend

app = typer.Typer(help="K-shot neural architecture search.", no_args_is_help=True, add_completion=False)


def _whole_number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(f"expected a whole number, got {text!r}") from None


_NUMBER = {"parser": _whole_number, "metavar": "NUMBER"}


@app.callback()
def options() -> None:
    """K-shot neural architecture search."""


@app.command()
def info() -> None:
    """Tell which backend is in use, and why; builds the native kernels if that was not done yet."""
    console = Console()
    try:
        state, rows = backend.info(), backend.rows()
    except backend.BackendError as error:
        console.print(f"error: {error}", style="red", markup=False)
        raise typer.Exit(1) from error
    table = Table(show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, value)
    console.print(table)
    if state.error is not None:
        raise typer.Exit(1)


@app.command()
def search(
    data: Annotated[
        Path | None,
        typer.Option(help="Image folder, zip of one, or .npz; default: scikit-learn's handwritten digits."),
    ] = None,
    space: Annotated[
        str | None,
        typer.Option(
            help="Search space: nas-bench-macro (default), mobilenet-v2-se, shufflenet-v2, nas-bench-201, "
            "or FILE.py:CLASS, one of your own."
        ),
    ] = None,
    widths: Annotated[
        str | None,
        typer.Option(help="Search channel widths too: shares such as 0.5,0.75,1, or tenths such as 0.2-1."),
    ] = None,
    shots: Annotated[int | None, typer.Option(help="Number K of weight copies; default 4.", **_NUMBER)] = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs of supernet training.", **_NUMBER)] = None,
    retrain_epochs: Annotated[int | None, typer.Option(help="Epochs of training from scratch.", **_NUMBER)] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            help="Most multiply-accumulates for one image: 1.5e6, 1.5M, or 60% of the largest network's; default 60%."
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Decides everything random; default 0.", **_NUMBER)] = None,
    channels: Annotated[
        int | None, typer.Option(help="Width of the first layer; default: what suits the image size.", **_NUMBER)
    ] = None,
    image_size: Annotated[
        int | None, typer.Option(help="Scale and cut images to this side in pixels; default: leave them.", **_NUMBER)
    ] = None,
    max_images: Annotated[
        int | None, typer.Option(help="Use a random subset of this size, the same share of every class.", **_NUMBER)
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Run folder to create; default: runs/, then date, time, data and space."),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(help="TOML file with these settings and more; the command line wins over it."),
    ] = None,
    resume: Annotated[Path | None, typer.Option(help="Go on with the run in this folder.")] = None,
    workers: Annotated[
        int | None, typer.Option(help="Evaluate populations in this many processes, by Ray.", **_NUMBER)
    ] = None,
    ray_address: Annotated[
        str | None, typer.Option(help="Address of a running Ray cluster that has the workers; default: this machine.")
    ] = None,
) -> None:
    """Train a supernet, search it, train the winner and a random rival from scratch, and report."""
    from kshot_ext.nas.command import search_command

    options = {
        "data": None if data is None else str(data),
        "space": space,
        "widths": widths,
        "shots": shots,
        "epochs": epochs,
        "retrain_epochs": retrain_epochs,
        "budget": budget,
        "seed": seed,
        "channels": channels,
        "image_size": image_size,
        "max_images": max_images,
        "out": None if out is None else str(out),
    }
    raise typer.Exit(search_command(options, config, resume, workers, ray_address))


def main() -> None:
    """Entry point of the command."""
    app()
