"""What ``kshot-ext export`` says of a file; `kshot_ext.nas.api.export` writes it."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from kshot_ext.nas.api.finished import load_run
from kshot_ext.nas.api.runs import RetrainedRun
from kshot_ext.nas.commands.frame import FOR_PEOPLE, CommandError, Output, exit_status, of_search, tell, users_errors


def export_command(
    run: Path,
    architecture: str | None = None,
    *,
    format: str = "pt2",
    weights: str | None = None,
    out: Path | None = None,
    space: str | None = None,
    task: str | None = None,
    method: str | None = None,
    output: Output = FOR_PEOPLE,
) -> int:
    """Write a network of a search, or the one of a training after it, as a file, and print how it is used.

    Args:
        run: folder of the search, or of the training.
        architecture: its key, its place in the history, or the title of a network; None for a search's winner, and the
            one network of a training.
        format: ``"pt2"``, ``"onnx"`` or ``"safetensors"``.
        weights: ``"trained"`` or ``"inherited"``; None for trained ones where there are any.
        out: the file; None for one inside the run's folder.
        space, task, method: ``FILE.py:CLASS``, if the run's is one's own.
        output: what is printed.

    Returns:
        Exit status: 0 done, 2 an error that the user can mend, 130 interrupted.
    """

    def body(console: Console) -> None:
        with users_errors("safetensors"):
            found = load_run(run, space=space, task=task, method=method)
            options = {"format": format} if out is None else {"format": format, "out": out}
            if isinstance(found, RetrainedRun):
                if architecture is not None or weights == "inherited":
                    raise CommandError(f"{run}: holds one trained network; leave --architecture and --weights out")
                exported = found.export(**options)
            else:
                exported = of_search(found).export(architecture or "winner", weights=weights, **options)
        checked = f"; {exported.checked} gives the network's scores" if exported.checked else ""
        tell(console, f"{exported.path}: {exported.weights} weights{checked}")
        for line in exported.snippet.splitlines():
            tell(console, line)
        places = {"path": str(exported.path), "weights": exported.weights, "checked": exported.checked}
        output.result({**places, "snippet": exported.snippet})

    return exit_status(body, lambda: "nothing of the run was changed", output)
