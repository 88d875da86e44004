"""Classes of the user's own: spaces, methods and tasks, by file and class, or given as objects by a program."""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from kshot_ext.nas.checks import BrokenContractError
from kshot_ext.nas.files import read_bytes
from kshot_ext.nas.messages import one_line

Class = TypeVar("Class")

_PREFIX = "own_class_"
_GIVEN = "python:"

_given: dict[str, object] = {}


def own_modules() -> list[ModuleType]:
    """The modules of all files loaded so far; no import statement finds them."""
    return [module for name, module in sys.modules.items() if name.startswith(_PREFIX)]


def is_own(name: str) -> bool:
    """Whether a name has the form ``FILE.py:CLASS``, or is that of something given by a program."""
    file, _, class_name = name.rpartition(":")
    return is_given(name) or (file.endswith(".py") and class_name.isidentifier())


def is_given(name: str) -> bool:
    """Whether a name is one that :func:`give` makes."""
    return name.startswith(_GIVEN)


def give(thing: object) -> str:
    """Makes a class, or an object, known in this process by a name that settings can keep.

    Example:
        >>> class Space: ...
        >>> give(Space).endswith(".Space")
        True
    """
    kind = thing if isinstance(thing, type) else type(thing)
    name = f"{_GIVEN}{kind.__module__}.{kind.__qualname__}"
    _given[name] = thing
    return name


def own_digest(name: str) -> str:
    """SHA-256 of the source of an own class: its file, or the text of a class that was given.

    Raises:
        OSError: if the file cannot be read.
    """
    if not is_given(name):
        return hashlib.sha256(read_bytes(Path(_file_of(name)))).hexdigest()
    thing = _given.get(name)
    kind = thing if isinstance(thing, type) else type(thing)
    try:
        source = inspect.getsource(kind)
    except (OSError, TypeError):  # it was typed into a session that keeps no text
        source = ""
    return hashlib.sha256(f"{name}\n{source}".encode()).hexdigest()


def _file_of(name: str) -> str:
    """The ``FILE.py`` of a name ``FILE.py:CLASS``."""
    return name.rpartition(":")[0]


def with_absolute_path(name: str) -> str:
    """The same name for any working directory; names of other forms stay as they are."""
    if is_given(name) or not is_own(name):
        return name
    file, _, class_name = name.rpartition(":")
    return f"{Path(file).resolve()}:{class_name}"


def load_own(name: str, setting: str, base: Callable[..., Class]) -> type[Class] | Class:
    """The class that a name ``FILE.py:CLASS`` means, which runs the file; or the class or object that was given.

    Args:
        name: the name.
        setting: what names it, for messages.
        base: the class that it must be made of; an abstract one, which mypy lets nobody give as a ``type``.

    Raises:
        ValueError: if the file cannot be read or run, with the line that fails, or has no such class; or if nothing of
            that name was given, or something else.
    """
    if is_given(name):
        return _given_as(name, setting, base)
    file, class_name = _file_of(name), name.rpartition(":")[2]
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
    kind: Any = getattr(module, class_name, None)
    if not _is_class_of(kind, base):
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
        raise ValueError(_described(error, None if is_given(name) else _file_of(name), setting)) from error


def _given_as(name: str, setting: str, base: Callable[..., Class]) -> type[Class] | Class:
    if name not in _given:
        raise ValueError(
            f"{setting}: expected {name.removeprefix(_GIVEN)} again, which a program gave as an object: "
            f"{setting}=... of nas.search, nas.rank or nas.load_run; the command takes classes as FILE.py:CLASS only"
        )
    thing: Any = _given[name]
    if _is_class_of(type(thing), base) or _is_class_of(thing, base):
        return thing
    raise ValueError(f"{setting}: expected a {base.__name__}, its class or FILE.py:CLASS, got {thing!r:.80}")


def _is_class_of(kind: Any, base: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, base)


def told_own_error(error: BaseException, names: Mapping[str, str]) -> str | None:
    """What to tell of an error that ended a run: the line of the user's class that it passed, or what that gave.

    Args:
        error: with its traceback.
        names: of the run's own classes, ``FILE.py:CLASS``, by the settings that name them.

    Returns:
        None if none of them can be seen to be at fault.
    """
    passed = {frame.filename for frame in traceback.extract_tb(error.__traceback__)}
    for setting, name in names.items():
        if not is_given(name) and _file_of(name) in passed:
            return _described(error, _file_of(name), setting)
    if isinstance(error, BrokenContractError) and "method" in names:
        return _described(error, _file_of(names["method"]), "method")
    return None


def _described(error: BaseException, file: str | None, setting: str) -> str:
    if isinstance(error, BrokenContractError):
        return f"{setting}: {file or type(error).__name__}: {one_line(error)}"
    message = f"{type(error).__name__}: {one_line(getattr(error, 'msg', error))}"
    return f"{setting}: {_place(error, file)}: cannot be run ({message})"


def _place(error: BaseException, file: str | None) -> str:
    """The file and line that an error comes from: of a syntax error where it is, else the last one in the file; where
    there is no file, wherever it was raised."""
    if isinstance(error, SyntaxError) and error.lineno is not None:
        return f"{error.filename}, line {error.lineno}"
    if file is None:
        last = traceback.extract_tb(error.__traceback__)[-1]
        return f"{last.filename}, line {last.lineno}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    return f"{file}, line {lines[-1]}" if lines else file
