"""What ``kshot-ext retrain`` says of a training; `kshot_ext.nas.api.retrain` does it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console

from kshot_ext.nas.commands.frame import FOR_PEOPLE, Output, exit_status, search_run, tell, users_errors
from kshot_ext.nas.messages import in_shell
from kshot_ext.nas.progress import ConsoleProgress

_LIBRARIES = ("safetensors", "tensorboard")


def retrain_command(
    run: Path,
    architecture: str = "winner",
    *,
    epochs: int | None = None,
    seed: int = 0,
    out: Path | None = None,
    space: str | None = None,
    task: str | None = None,
    method: str | None = None,
    threads: int | None = None,
    output: Output = FOR_PEOPLE,
) -> int:
    """Train an architecture of a search from scratch, or go on with it, and print what it reached.

    Args:
        run: folder of the search.
        architecture: its key, its place in the history, or the title of a network.
        epochs: of the training; None for as many as the search's networks had.
        seed: decides everything random in the training.
        out: folder of the training; None for one inside the run's.
        space, task, method: ``FILE.py:CLASS``, if the run's is one's own.
        threads: of this process; None for what suits the images.
        output: what is printed.

    Returns:
        Exit status: 0 done, 2 an error that the user can mend, 130 interrupted.
    """

    def body(console: Console) -> None:
        with users_errors(*_LIBRARIES):
            found = search_run(run, space, task, method)
            chosen = found.architecture(architecture)
            found.job.method.result_space.validate(chosen)  # reads the images
        settings: dict[str, Any] = {} if epochs is None else {"epochs": epochs}
        trained = found.retrain(
            architecture, seed=seed, out=out, settings=settings, threads=threads, progress=ConsoleProgress(console)
        )
        network = trained.described
        task_of = found.job.splits.task
        tell(console, f"network {network.key}: test {task_of.metric_name} {task_of.shown(network.test_accuracy)}")
        tell(console, f"folder: {trained.path}")
        output.result({"folder": str(trained.path), **network.to_json()})

    words = {"architecture": architecture, "epochs": epochs, "seed": seed or None, "out": out}
    given = {**words, "space": space, "task": task, "method": method}
    options = "".join(f" --{name} {in_shell(value)}" for name, value in given.items() if value is not None)
    again = f"kshot-ext retrain {in_shell(run)}{options}"
    return exit_status(body, lambda: f"the search is unchanged; go on by the same command: {again}", output)
