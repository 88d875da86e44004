"""What the commands that run something share: what they print, errors, signals."""

from __future__ import annotations

import errno
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TextIO, TypeVar, cast

from rich.console import Console
from rich.table import Table
from rich.text import Text

from kshot_ext._native import notices
from kshot_ext.backend import BackendError
from kshot_ext.distributed import LostProcessError
from kshot_ext.nas.api.finished import load_run
from kshot_ext.nas.api.runs import Run
from kshot_ext.nas.api.search_run import SearchRun
from kshot_ext.nas.api.session import Session
from kshot_ext.nas.datasets.source import DataError
from kshot_ext.nas.extras import MissingExtraError, require
from kshot_ext.nas.files import WriteError, write_errors
from kshot_ext.nas.findings import Findings
from kshot_ext.nas.messages import one_line, visible
from kshot_ext.nas.own_classes import told_own_error
from kshot_ext.nas.runs.run_folder import RunFolder, RunFolderError
from kshot_ext.nas.strict_json import strict_json
from kshot_ext.nas.tables import SettingsError
from kshot_ext.nas.training.divergence import DivergedError

EXIT_DONE, EXIT_ERROR, EXIT_INTERRUPTED = 0, 2, 130

_CURES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "make room there; "),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "make it writable; "),
}


class CommandError(Exception):
    """Something that the user can mend; the message says what."""


@dataclass(frozen=True)
class Output:
    """What a command prints besides errors, which always go to standard error.

    Args:
        quiet: whether it says nothing on the way, and no result for people either.
        json: whether it ends with its result as one JSON object on standard output; what it says on the way goes to
            standard error then.
    """

    quiet: bool = False
    json: bool = False

    def console(self) -> Console:
        """Where it says what it does."""
        stream = (sys.stderr, "standard error") if self.json else (sys.stdout, "standard output")
        return Console(file=cast("TextIO", _StandardStream(*stream)), quiet=self.quiet)

    def result(self, values: Mapping[str, Any]) -> None:
        """Print the result for programs, if that is asked for."""
        if self.json:
            _StandardStream(sys.stdout, "standard output").write(strict_json(values, indent=2) + "\n")


FOR_PEOPLE = Output()


def exit_status(body: Callable[[Console], None], how_to_go_on: Callable[[], str], output: Output = FOR_PEOPLE) -> int:
    """Do what a command does; print errors that the user can mend.

    Args:
        body: does it, and prints its result.
        how_to_go_on: what to tell who interrupts it.
        output: what it prints.

    Returns:
        Exit status: 0 done, 2 an error that the user can mend, 130 interrupted.
    """
    stream: Any
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, OSError):  # a name of bytes that the terminal's encoding lacks must not end a run
            stream.reconfigure(errors="backslashreplace")
    try:
        with _termination_as_interrupt(), notices.printing(not output.quiet):
            body(output.console())
    except KeyboardInterrupt:
        _complain("\n", f"stopped; {how_to_go_on()}")
        return EXIT_INTERRUPTED
    except LostProcessError as error:
        _complain("error: ", f"{one_line(error)}; {how_to_go_on()}")
        return EXIT_ERROR
    except (BackendError, CommandError, RunFolderError, SettingsError, DivergedError) as error:
        _complain("error: ", str(error))
        return EXIT_ERROR
    except DataError as error:  # of an image that is read while training
        _complain("error: ", f"{error}; {how_to_go_on()}")
        return EXIT_ERROR
    except OSError as error:
        _complain("error: ", f"{_described(error)}; {_CURES.get(error.errno or 0, '')}{how_to_go_on()}")
        return EXIT_ERROR
    return EXIT_DONE


class _StandardStream:
    """A standard stream that says which it is when it fails; one that nobody reads any more is silent from then on.

    Args:
        stream: what it writes to.
        name: of the stream, for people.
    """

    def __init__(self, stream: TextIO, name: str) -> None:
        self._stream = stream
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        return getattr(self._stream, attribute)

    def write(self, text: str) -> int:
        with self._failures():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._failures():
            self._stream.flush()

    @contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            with write_errors(Path(self._name)):
                yield
        except WriteError as error:
            self._discard()
            if error.errno != errno.EPIPE:
                raise

    def _discard(self) -> None:
        """Let what is still buffered, and all that follows, go nowhere; else Python tries it again as it ends."""
        with suppress(OSError):  # a stream that is no file of the system
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)


def _described(error: OSError) -> str:
    """What the system said, without its number."""
    if isinstance(error, WriteError) or error.strerror is None:
        return str(error)
    return error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"


def _complain(begin: str, text: str) -> None:
    notices.log(visible(text), logging.ERROR)
    with suppress(OSError):  # the disk that is full may be that of standard error
        errors = Console(file=cast("TextIO", _StandardStream(sys.stderr, "standard error")))
        errors.print(begin, end="", highlight=False, markup=False)
        print_line(errors, text)


@contextmanager
def users_errors(*libraries: str) -> Iterator[None]:
    """Turn refused values, and libraries of the ``search`` extra that are missing, into errors of the user."""
    try:
        for library in libraries:
            require(library)
        yield
    except (ValueError, MissingExtraError) as error:
        raise CommandError(str(error)) from error


@contextmanager
def own_class_errors(session: Session) -> Iterator[None]:
    """Turn what goes wrong in a class of the user's own into an error of the user, with how to go on once it is mended.

    Other errors pass, with their traceback.
    """
    try:
        yield
    except (DivergedError, LostProcessError, OSError, RunFolderError):
        raise
    except Exception as error:  # the class is the user's: anything may come of it
        told = told_own_error(error, session.own_classes)
        if told is None:
            raise
        raise CommandError(f"{told}; {session.how_to_go_on()}") from error


class _Begun(Protocol):
    """A run that is ready to run."""

    @property
    def folder(self) -> RunFolder[Any] | None: ...


Begun = TypeVar("Begun", bound=_Begun)


@contextmanager
def begun(session: Session, console: Console, run: AbstractContextManager[Begun]) -> Iterator[Begun]:
    """Inside the context a run is ready to run, and its folder is told; what the user can mend is an error of the user.

    Args:
        session: which run it is.
        console: where the folder is told.
        run: begins it, or goes on with it.
    """
    with ExitStack() as resources:
        with users_errors():
            ready = resources.enter_context(run)
        if ready.folder is not None:
            tell(console, f"run folder: {ready.folder.path}")
        with own_class_errors(session):
            yield ready


def search_run(folder: Path, space: str | None = None, task: str | None = None, method: str | None = None) -> SearchRun:
    """The search in a folder, for commands that use what it found.

    Args:
        folder: the run folder.
        space, task, method: ``FILE.py:CLASS``, if the run's is one's own.

    Raises:
        CommandError: if it is a run of another kind.
        RunFolderError, ValueError: as `load_run`.
    """
    return of_search(load_run(folder, space=space, task=task, method=method))


def of_search(run: Run[Any]) -> SearchRun:
    """A run that must be a search.

    Raises:
        CommandError: if it is of another kind.
    """
    if not isinstance(run, SearchRun):
        raise CommandError(f"{run.path}: expected a run of kshot-ext search, got one of {run.card.command}")
    return run


def tell(console: Console, text: str) -> None:
    """Print a line as it is, paths and all, and log it."""
    notices.log(visible(text))
    print_line(console, text)


def print_line(console: Console, text: str) -> None:
    """Print a line as it is, paths and all."""
    console.print(visible(text), soft_wrap=True, highlight=False, markup=False, emoji=False)


def print_facts(console: Console, title: str, facts: Mapping[str, str]) -> None:
    """Print names and values as a table."""
    table = Table(title=Text(title), show_header=False)
    for row in facts.items():
        table.add_row(*map(Text, row))
    console.print(table)


def tell_findings(console: Console, findings: Findings | None) -> None:
    """Print what the findings of a method amount to; nothing of a method without."""
    if findings is None or not findings.sentence:
        return
    style = "bold yellow" if findings.warnings else ""
    notices.log(findings.sentence)
    console.print(Text(findings.sentence, style=style), soft_wrap=True)


@contextmanager
def _termination_as_interrupt() -> Iterator[None]:
    """Let SIGTERM, which batch systems send, and SIGHUP of a terminal that closes, end a run as Ctrl-C does.

    A SIGHUP that is ignored stays so: that is what nohup is for.
    """
    names = [signal.SIGTERM, *([signal.SIGHUP] if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN else [])]
    previous = {name: signal.signal(name, signal.default_int_handler) for name in names}
    try:
        yield
    finally:
        for name, handler in previous.items():
            signal.signal(name, handler)
