"""Keyword arguments of a program as settings: what is an object there has a name or a table in a settings file."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kshot_ext.nas.datasets import DataWarning, ImageSource, open_source
from kshot_ext.nas.methods.method import Method
from kshot_ext.nas.own_classes import give
from kshot_ext.nas.runs.run_folder import RunRecord
from kshot_ext.nas.runs.settings import SupernetSettings
from kshot_ext.nas.spaces.space import SearchSpace
from kshot_ext.nas.tables import as_table, read_toml
from kshot_ext.nas.task import CLASSIFICATION, TASKS, Task, allow_own_task, task_named

Settings = SupernetSettings | Mapping[str, Any] | str | Path
"""What a program may give as settings: the object, its table, or the path of a TOML file."""

_LISTS = ("widths", "bits")


def as_config(settings: Settings | None) -> Path | Mapping[str, Any] | None:
    """Settings as a file or a table of them.

    Raises:
        TypeError: if they are something else.
    """
    if settings is None or isinstance(settings, Mapping):
        return settings
    if isinstance(settings, (str, Path)):
        return Path(settings)
    if isinstance(settings, SupernetSettings):
        return as_table(settings)
    raise TypeError(f"settings: expected RunSettings, a table or a path of a TOML file, got {type(settings).__name__}")


def as_options(keywords: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by name, as a settings file has them; those that are None are left out.

    Example:
        >>> as_options({"shots": 8, "widths": (0.5, 1), "truth": Path("table.json"), "seed": None})
        {'shots': 8, 'widths': '0.5,1', 'truth': 'table.json'}
    """
    return {name: _as_option(name, value) for name, value in keywords.items() if value is not None}


def own_name(thing: Any) -> Any:
    """The name by which settings know a class or an object of the user's own; what is a name already stays one."""
    return give(thing) if isinstance(thing, (SearchSpace, Method, Task, type)) else thing


def images_of(data: Any, task: Any = None) -> tuple[str | None, ImageSource | None, str | None]:
    """What settings say of data, the images of what no text can name, and what settings say of their task.

    Args:
        data: None, a path, an `ImageSource`, or whatever else `open_source` takes.
        task: a name, a `Task` or its class; None for that of an `ImageSource`, else what the settings say.

    Raises:
        DataError: if it cannot be used.
    """
    name = own_name(task)
    allow_own_task(name)
    if data is None or isinstance(data, (str, Path)):
        return (None if data is None else str(data)), None, name
    if not isinstance(data, ImageSource):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DataWarning)  # told when the images are read
            data = open_source(data, task=task_named(name or CLASSIFICATION.name))
    known = TASKS.get(data.task.name) is type(data.task)
    return f"python:{data.name}", data, name or (data.task.name if known else give(data.task))


def task_asked_for(
    data: Any, options: Mapping[str, Any], settings: Settings | None = None, resume: str | Path | None = None
) -> Any:
    """The task that the targets of an object are read for: of the keyword arguments, else of the settings or the run.

    Args:
        data: None, a path, an `ImageSource`, which has a task, or whatever else `open_source` takes.
        options: the keyword arguments.
        settings, resume: as of `nas.search`.
    """
    if options.get("task") is not None or data is None or isinstance(data, (str, Path, ImageSource)):
        return options.get("task")
    if resume is not None:
        return task_of_package(RunRecord[SupernetSettings](Path(resume)).settings.task)
    config = as_config(settings)
    if isinstance(config, Path):
        config = read_toml(config) if config.is_file() else None  # a pipe is read once, and later
    return None if config is None else task_of_package(config.get("task"))


def task_of_package(name: Any) -> str | None:
    """The name if it is one of the package's tasks; one that is code must be among the keyword arguments."""
    return name if isinstance(name, str) and name in TASKS else None


def own_of(options: Mapping[str, Any]) -> dict[str, Any]:
    """The space, the task and the method that were asked for by name."""
    method = options.get("method")
    own = {name: options.get(name) for name in ("space", "task")}
    return {**own, "method": method["name"] if isinstance(method, Mapping) else method}


def _as_option(name: str, value: Any) -> Any:
    if name in ("space", "method", "task"):
        value = own_name(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = as_table(value)
    if isinstance(value, Mapping):
        value = {
            inner: own_name(item) if inner == "name" else item for inner, item in value.items() if item is not None
        }
    if name in _LISTS and isinstance(value, (list, tuple)):
        return ",".join(map(str, value))
    return str(value) if isinstance(value, Path) else value
