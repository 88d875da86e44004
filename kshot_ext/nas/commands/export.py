"""What ``kshot-ext export`` says of a file; `kshot_ext.nas.api.export` writes it."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from kshot_ext.nas.commands.frame import FOR_PEOPLE, Output, exit_status, search_run, tell, users_errors


def export_command(
    run: Path,
    architecture: str = "winner",
    *,
    format: str = "pt2",
    weights: str | None = None,
    out: Path | None = None,
    space: str | None = None,
    task: str | None = None,
    method: str | None = None,
    output: Output = FOR_PEOPLE,
) -> int:
    """Write a network of a search as a file, and print how it is used.

    Args:
        run: folder of the search.
        architecture: its key, its place in the history, or the title of a network.
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
            found = search_run(run, space, task, method)
            options = {} if out is None else {"out": out}
            exported = found.export(architecture, format=format, weights=weights, **options)
        checked = f"; {exported.checked} gives the network's scores" if exported.checked else ""
        tell(console, f"{exported.path}: {exported.weights} weights{checked}")
        for line in exported.snippet.splitlines():
            tell(console, line)
        places = {"path": str(exported.path), "weights": exported.weights, "checked": exported.checked}
        output.result({**places, "snippet": exported.snippet})

    return exit_status(body, lambda: "nothing of the run was changed", output)
