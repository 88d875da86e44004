"""Classes of the user's own, by file and class: search spaces and search methods."""

from __future__ import annotations

import importlib.util
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TypeVar

from kshot_ext.nas.messages import one_line

Class = TypeVar("Class")

_PREFIX = "own_class_"


def own_modules() -> list[ModuleType]:
    """The modules of all files loaded so far; no import statement finds them."""
    return [module for name, module in sys.modules.items() if name.startswith(_PREFIX)]


def is_own(name: str) -> bool:
    """Whether a name has the form ``FILE.py:CLASS``."""
    file, _, class_name = name.rpartition(":")
    return file.endswith(".py") and class_name.isidentifier()


def file_of(name: str) -> str:
    """The ``FILE.py`` of a name ``FILE.py:CLASS``."""
    return name.rpartition(":")[0]


def with_absolute_path(name: str) -> str:
    """The same name for any working directory; names of other forms stay as they are."""
    if not is_own(name):
        return name
    file, _, class_name = name.rpartition(":")
    return f"{Path(file).resolve()}:{class_name}"


def load_own(name: str, setting: str, base: type[Class]) -> type[Class]:
    """The class that a name ``FILE.py:CLASS`` means; runs the file.

    Args:
        name: the name.
        setting: what names it, for messages.
        base: what it must be a subclass of.

    Raises:
        ValueError: if the file cannot be read or run, with the line that fails, or has no such class.
    """
    file, class_name = file_of(name), name.rpartition(":")[2]
    if not Path(file).is_file():
        raise ValueError(f"{setting}: {file}: no such file")
    spec = importlib.util.spec_from_file_location(_PREFIX + Path(file).stem, file)
    assert spec is not None, "a .py file has a loader"
    assert spec.loader is not None, "as above"
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up there
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # The file is the user's: anything may come of running it.
        del sys.modules[spec.name]
        raise ValueError(_described(error, file, setting)) from error
    kind = getattr(module, class_name, None)
    if not (isinstance(kind, type) and issubclass(kind, base)):
        raise ValueError(f"{setting}: expected {file} to define a {base.__name__} {class_name}, got {kind!r}")
    return kind


@contextmanager
def own_errors(name: str, setting: str) -> Iterator[None]:
    """Inside the context whatever a user's class raises becomes a `ValueError` with its line; other names pass."""
    try:
        yield
    except ValueError:
        raise
    except Exception as error:  # The class is the user's too.
        if not is_own(name):
            raise
        raise ValueError(_described(error, file_of(name), setting)) from error


def _described(error: BaseException, file: str, setting: str) -> str:
    message = f"{type(error).__name__}: {one_line(getattr(error, 'msg', error))}"
    return f"{setting}: {_place(error, file)}: cannot be run ({message})"


def _place(error: BaseException, file: str) -> str:
    """The file and line that an error comes from: of a syntax error where it is, else the last one in the file."""
    if isinstance(error, SyntaxError) and error.lineno is not None:
        return f"{error.filename}, line {error.lineno}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    return f"{file}, line {lines[-1]}" if lines else file
