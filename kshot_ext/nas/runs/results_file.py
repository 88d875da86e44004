"""A JSON file that gathers the results of many runs: ``{"runs": [{...}, ...]}``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kshot_ext.nas.files import locked_folder, write_text


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


def add_result(path: Path, entry: Mapping[str, Any]) -> None:
    """Add a run to a file of results, atomically; processes that do so at the same time wait for each other.

    An entry of the same ``run``, as left by a process that was killed just afterwards, is replaced.

    Args:
        path: the file; made if it is missing.
        entry: what to add, with the run's name under ``run``.

    Raises:
        ResultsFileError: if the file is something else.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "ranking.json"
        >>> add_result(file, {"run": "a", "shots": 1})
        >>> add_result(file, {"run": "b", "shots": 8})
        >>> [run["shots"] for run in json.loads(file.read_text())["runs"]]
        [1, 8]
    """
    with locked_folder(path.parent):
        others = [run for run in read_results(path) if run.get("run") != entry["run"]]
        write_text(path, json.dumps({"runs": [*others, dict(entry)]}, indent=2, ensure_ascii=False) + "\n")


def read_results(path: Path) -> list[dict[str, Any]]:
    """The entries of a file of results; none if there is no file.

    Raises:
        ResultsFileError: if the file is something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise ResultsFileError(f"{path}: expected a JSON file of results ({error})") from error
    runs = content.get("runs") if isinstance(content, dict) else None
    if not isinstance(runs, list) or not all(isinstance(run, dict) for run in runs):
        raise ResultsFileError(f'{path}: expected {{"runs": [{{...}}, ...]}}, got {json.dumps(content)[:80]}')
    return runs
