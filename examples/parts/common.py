"""What the examples share: the folder of a run, training under a bar, times, and what is written at the end."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import torch
import typer
from torch import Tensor, nn

from kshot_ext.nas.extras import require
from kshot_ext.nas.files import atomic_path, write_text
from kshot_ext.nas.progress import ConsoleProgress
from kshot_ext.nas.strict_json import strict_json
from kshot_ext.nas.training.divergence import check_loss
from kshot_ext.nas.training.gradient_steps import GradientSteps
from kshot_ext.nas.training.optimization import OptimizationSettings
from kshot_ext.optim import KShotSGD, decay_groups

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_CLIP_NORM, _WEIGHT_DECAY = 5.0, 1e-4

NewFolder = Annotated[Path, typer.Option(help="a new folder, or an empty one")]
Quick = Annotated[bool, typer.Option(help="a rehearsal of some seconds")]


def new_folder(path: Path) -> Path:
    """Makes the folder of a run; an empty one will do.

    Raises:
        typer.BadParameter: if there is something already, of which nothing is touched; or if it cannot be made, or
            written to.
        MissingExtraError: if matplotlib is not installed, by which a run would end.
    """
    require("matplotlib.figure", "examples")
    try:
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise typer.BadParameter(
                f"{path} exists already; move it away or choose another folder", param_hint="--out"
            )
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise typer.BadParameter(
            f"{path} cannot be made or written to: {error.strerror}", param_hint="--out"
        ) from error
    return path


def nesterov_sgd(network: nn.Module, rate: float, *, shots: int = 1) -> KShotSGD:
    """An optimiser for a network, or a supernet of K shots.

    Under equal codes the mixed weight moves by 1/K of the rate, which a rate K times as high makes up for.
    """
    groups = decay_groups(network, _WEIGHT_DECAY / shots, decay_norms=False)
    return KShotSGD(groups, lr=shots * rate, momentum=0.9, nesterov=True)


def train(
    optimizer: torch.optim.Optimizer, steps: int, loss: Callable[[], Tensor], bar: ConsoleProgress, title: str
) -> None:
    """Takes steps of an optimiser, whose learning rate rises for a tenth of them and falls along half a cosine.

    Args:
        optimizer: its learning rates are the highest.
        steps: how many.
        loss: computes a step's loss.
        bar, title: show the progress.

    Raises:
        DivergedError: if a loss is not finite.
    """
    rates = OptimizationSettings(epochs=1, rise_steps=steps // 10)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rates.learning_rate_factor(step, steps))
    gradient_steps = GradientSteps("float32", torch.device("cpu"))
    bar.start(title, steps)
    for step in range(1, steps + 1):
        value = loss()
        check_loss(value.item())
        gradient_steps.backward(value)
        gradient_steps.step(optimizer, clip_norm=_CLIP_NORM)
        schedule.step()
        if step % max(steps // 5, 1) == 0:
            bar.finish_step(step, {"loss": value.item()})
        else:
            bar.move(step)


def milliseconds(run: Callable[[Tensor], object], inputs: Tensor) -> float:
    """Time that a function takes for one sample, the median over the samples of a batch."""
    times = []
    for sample in inputs.split(1):
        start = time.perf_counter()
        run(sample)
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times)


def write_results(folder: Path, metrics: Mapping[str, Any], figure: Figure) -> None:
    """Writes `metrics.json` and `picture.png`, and says so."""
    write_text(folder / "metrics.json", strict_json(metrics, indent=2) + "\n")
    with atomic_path(folder / "picture.png") as temporary:
        figure.savefig(temporary, dpi=150, bbox_inches="tight", facecolor="white")
    print(f"written: {folder / 'metrics.json'}, {folder / 'picture.png'}")
