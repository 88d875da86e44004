"""A JSON file that gathers the results of many runs: ``{"runs": [{...}, ...]}``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kshot_ext.nas.files import check_can_write, is_there, read_json, write_text
from kshot_ext.nas.locks import LockHeldError, locked

_LOCK_SECONDS = 300.0


class ResultsFileError(ValueError):
    """A file of results cannot be added to; it is left as it was."""


def check_results_file(path: Path) -> None:
    """Checks that results can be added to a file, which may be missing.

    Raises:
        ResultsFileError: if not.
    """
    read_results(path)
    if not path.parent.is_dir():
        raise ResultsFileError(f"{path}: there is no folder {path.parent}")
    try:
        check_can_write(path.parent, (path.name, _lock_of(path).name))
    except OSError as error:
        raise ResultsFileError(str(error)) from error


def add_result(path: Path, entry: Mapping[str, Any]) -> None:
    """Add a run to a file of results, atomically; processes that do so at the same time wait for each other.

    An entry of the same ``run``, as left by a process that was killed just afterwards, is replaced.

    Args:
        path: the file; made if it is missing.
        entry: what to add, with the run's name under ``run``.

    Raises:
        ResultsFileError: if the file is something else, or another process holds its lock for minutes.
        WriteError: if it cannot be written.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "ranking.json"
        >>> add_result(file, {"run": "a", "shots": 1})
        >>> add_result(file, {"run": "b", "shots": 8})
        >>> [run["shots"] for run in json.loads(file.read_text())["runs"]]
        [1, 8]
    """
    try:
        with locked(_lock_of(path), _LOCK_SECONDS):
            others = [run for run in read_results(path) if run.get("run") != entry["run"]]
            write_text(path, json.dumps({"runs": [*others, dict(entry)]}, indent=2, ensure_ascii=False) + "\n")
    except LockHeldError as error:
        raise ResultsFileError(f"{path}: another process has been adding to it for minutes{error}") from error


def read_results(path: Path) -> list[dict[str, Any]]:
    """The entries of a file of results; none if there is no file.

    Raises:
        ResultsFileError: if the file is something else.
    """
    try:
        if not is_there(path):
            return []
        content = read_json(path)
    except (OSError, ValueError) as error:
        raise ResultsFileError(f"{path}: expected a JSON file of results ({error})") from error
    runs = content.get("runs") if isinstance(content, dict) else None
    if not isinstance(runs, list) or not all(isinstance(run, dict) for run in runs):
        raise ResultsFileError(f'{path}: expected {{"runs": [{{...}}, ...]}}, got {json.dumps(content)[:80]}')
    return runs


def _lock_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.lock")
