"""The `kshot-ext` command: argument parsing only."""

import typer
from rich.console import Console
from rich.table import Table

from kshot_ext import backend

app = typer.Typer(help="K-shot neural architecture search.", no_args_is_help=True, add_completion=False)


@app.callback()
def options() -> None:
    """K-shot neural architecture search."""


@app.command()
def info() -> None:
    """Tell which backend is in use, and why; builds the native kernels if that was not done yet."""
    console = Console()
    try:
        state = backend.info()
    except backend.BackendError as error:
        console.print(f"error: {error}", style="red", markup=False)
        raise typer.Exit(1) from error
    table = Table(show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in state.rows():
        table.add_row(name, value)
    console.print(table)
    if state.error is not None:
        raise typer.Exit(1)


def main() -> None:
    """Entry point of the command."""
    app()
