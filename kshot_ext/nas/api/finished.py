"""``nas.load_run``: a run folder as an object."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kshot_ext.nas.api.options import images_of, own_name, task_of_package
from kshot_ext.nas.api.runs import RankRun, RetrainedRun
from kshot_ext.nas.api.search_run import SearchRun
from kshot_ext.nas.methods import allow_own_method
from kshot_ext.nas.runs.run_folder import RunRecord


def load_run(
    folder: str | Path, *, data: Any = None, space: Any = None, method: Any = None, task: Any = None
) -> SearchRun | RankRun | RetrainedRun:
    """What is in a run folder, finished or not; for reading only.

    No pickle is read: weights come from checkpoints, which are safetensors.

    Args:
        folder: of a search, a ranking or a retraining.
        data: the images, if they were given as an object. They are read when something needs them.
        space, method, task: the run's own, if it has one: the class (or the object) itself, or ``FILE.py:CLASS``, as
            this runs that file.

    Raises:
        RunFolderError: if it is no run folder.
        ValueError: if its settings cannot be read, or it has a method of one's own that was not given.
    """
    allow_own_method(own_name(method))
    record: RunRecord[Any] = RunRecord(Path(folder))
    kind = {"search": SearchRun, "rank": RankRun, "retrain": RetrainedRun}[record.card.command]
    return kind(record, images_of(data, task or task_of_package(record.settings.task))[1], own_name(space))
