"""Options that several commands of `kshot-ext` have: their types, names and help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def _whole_number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(f"expected a whole number, got {text!r}") from None


NUMBER = {"parser": _whole_number, "metavar": "NUMBER"}


Data = Annotated[
    Path | None,
    typer.Option(help="Image folder, zip of one, or .npz; default: scikit-learn's handwritten digits."),
]
Space = Annotated[
    str | None,
    typer.Option(
        help="Search space: nas-bench-macro (default), mobilenet-v2-se, shufflenet-v2, nas-bench-201, "
        "split-attention, groupable, or FILE.py:CLASS, one of your own."
    ),
]
TaskName = Annotated[
    str | None,
    typer.Option(
        "--task", help="classification (default), regression, multi-label, or a class of your own: FILE.py:CLASS."
    ),
]
Method = Annotated[
    str | None,
    typer.Option(help="Search method: kshot (default), another that `kshot-ext methods` lists, or FILE.py:CLASS."),
]
Shots = Annotated[int | None, typer.Option(help="Number K of weight copies; default 4.", **NUMBER)]
Epochs = Annotated[int | None, typer.Option(help="Epochs of supernet training.", **NUMBER)]
BatchSize = Annotated[
    int | None,
    typer.Option(help="Images of a step, of the supernet and of networks trained from scratch.", **NUMBER),
]
LearningRate = Annotated[float | None, typer.Option(help="Highest learning rate of the supernet.")]
Precision = Annotated[
    str | None, typer.Option(help="Of all training: float32 (default), bfloat16, or on CUDA float16.")
]
Threads = Annotated[
    int | None,
    typer.Option(help="Threads of this process; default: one for small images, else one for each core.", min=1),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON; the rest goes to standard error.")]
PrintConfig = Annotated[
    bool,
    typer.Option("--print-config", help="Print all settings as a commented file for --config, and do nothing else."),
]
Seed = Annotated[int | None, typer.Option(help="Decides everything random; default 0.", **NUMBER)]
Device = Annotated[str | None, typer.Option(help="cpu (default), cuda or cuda:N.")]
Channels = Annotated[
    int | None, typer.Option(help="Width of the first layer; default: what suits the image size.", **NUMBER)
]
Cells = Annotated[
    int | None, typer.Option(help="Cells of each stage, in nas-bench-201; default: as published.", **NUMBER)
]
ImageSize = Annotated[
    int | None, typer.Option(help="Scale and cut images to this side in pixels; default: leave them.", **NUMBER)
]
MaxImages = Annotated[
    int | None, typer.Option(help="Use a random subset of this size, the same share of every class.", **NUMBER)
]
Workers = Annotated[int | None, typer.Option(help="Evaluate architectures in this many processes, by Ray.", **NUMBER)]
RayAddress = Annotated[
    str | None, typer.Option(help="Address of a running Ray cluster that has the workers; default: this machine.")
]
Out = Annotated[
    Path | None, typer.Option(help="Run folder to create; default: runs/, then date, time, data and space.")
]
Config = Annotated[
    Path | None, typer.Option(help="TOML file with these settings and more; the command line wins over it.")
]
Resume = Annotated[Path | None, typer.Option(help="Go on with the run in this folder.")]
Run = Annotated[Path, typer.Argument(help="Run folder of search.")]
_NETWORK = typer.Option(
    "--architecture",
    metavar="KEY|N",
    help="Which network: its key or its number in results.json, or winner (default), random, random-2, ...",
)
Network = Annotated[str, _NETWORK]
AnyNetwork = Annotated[str | None, _NETWORK]
OwnSpace = Annotated[
    str | None, typer.Option(help="FILE.py:CLASS, if the run's space is one of your own: this runs the file.")
]
OwnTask = Annotated[str | None, typer.Option(help="The same for a task of your own.")]
OwnMethod = Annotated[str | None, typer.Option(help="The same for a method of your own.")]
