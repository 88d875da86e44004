"""What the commands that run something share: errors, signals, threads, a run's folder."""

from __future__ import annotations

import shlex
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from kshot_ext.distributed import LostProcessError
from kshot_ext.nas.datasets.splits import DataSplits
from kshot_ext.nas.extras import MissingExtraError, require
from kshot_ext.nas.runs.run_card import RunCard
from kshot_ext.nas.runs.run_folder import RunFolder, RunFolderError
from kshot_ext.nas.runs.settings import AnySettings, check_same, gather_settings
from kshot_ext.nas.spaces.own import is_own
from kshot_ext.nas.training.divergence import DivergedError

EXIT_DONE, EXIT_ERROR, EXIT_INTERRUPTED = 0, 2, 130

_PIXELS_FOR_ONE_THREAD = 16 * 16


class CommandError(Exception):
    """Something that the user can mend; the message says what."""


class Run:
    """A run that a command begins or goes on with.

    Args:
        command: ``"search"`` or ``"rank"``.
        resume: run folder to go on with, or None to begin a new one.
    """

    def __init__(self, command: str, resume: Path | None) -> None:
        self.command = command
        self.resume = resume
        self.folder: RunFolder | None = None

    def settings(self, defaults: AnySettings, config: Path | None, options: Mapping[str, Any]) -> AnySettings:
        """The run's settings, checked to be the ones that it began with.

        Raises:
            RunFolderError: if the folder to go on with cannot be used.
            SettingsError: if the settings are unusable, or others than the run's.
        """
        if self.resume is None:
            return gather_settings(defaults, config, options)
        self.folder = RunFolder(self.resume, self.command)
        settings = gather_settings(self.folder.settings, config, options)
        check_same(self.folder.settings, settings, str(self.resume))
        return settings

    def open_folder(self, settings: AnySettings, data_name: str, splits: DataSplits) -> RunFolder[AnySettings]:
        """The run's folder; a new one is made when everything else has been checked, so errors leave nothing behind.

        Raises:
            RunFolderError: if it cannot be made.
            CommandError: if settings or data are not what the run began with.
        """
        if self.folder is None:
            default = f"runs/{time.strftime('%Y%m%d-%H%M%S')}-{data_name}-{settings.space.rpartition(':')[-1]}"
            kept = replace(settings, out=None)
            card = RunCard.new(self.command, kept, data_name, splits)
            self.folder = RunFolder.create(Path(settings.out or default), kept, card)
        else:
            try:
                self.folder.card.check_continues(settings, splits)
            except ValueError as error:
                raise CommandError(f"{self.folder.path}: {error}") from error
        return self.folder

    def how_to_go_on(self) -> str:
        """What to tell who interrupted the run."""
        if self.folder is None:
            return "nothing was written"
        command = f"kshot-ext {self.command} --resume {shlex.quote(str(self.folder.path))}"
        if is_own(self.folder.settings.space):
            command += f" --space {shlex.quote(self.folder.settings.space)}"
        return f"go on with: {command}"


def exit_status(body: Callable[[Console], None], how_to_go_on: Callable[[], str]) -> int:
    """Do what a command does; print errors that the user can mend.

    Args:
        body: does it, and prints its result.
        how_to_go_on: what to tell who interrupts it.

    Returns:
        Exit status: 0 done, 2 an error that the user can mend, 130 interrupted.
    """
    errors = Console(stderr=True)
    try:
        with _termination_as_interrupt():
            body(Console())
    except KeyboardInterrupt:
        tell(errors, f"\nstopped; {how_to_go_on()}")
        return EXIT_INTERRUPTED
    except LostProcessError as error:
        tell(errors, f"error: {error}; {how_to_go_on()}")
        return EXIT_ERROR
    except (CommandError, RunFolderError, DivergedError, OSError) as error:
        tell(errors, f"error: {error}")
        return EXIT_ERROR
    return EXIT_DONE


@contextmanager
def users_errors(*libraries: str) -> Iterator[None]:
    """Turn refused values, and libraries of the ``search`` extra that are missing, into errors of the user."""
    try:
        for library in libraries:
            require(library)
        yield
    except (ValueError, MissingExtraError) as error:
        raise CommandError(str(error)) from error


def tell(console: Console, text: str) -> None:
    """Print a line as it is, paths and all."""
    console.print(text, soft_wrap=True, highlight=False, markup=False)


@contextmanager
def suitable_threads(image_shape: tuple[int, int, int]) -> Iterator[None]:
    """One thread for images so small that threads would spend their time waiting for each other."""
    before = torch.get_num_threads()
    if image_shape[1] * image_shape[2] <= _PIXELS_FOR_ONE_THREAD:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _termination_as_interrupt() -> Iterator[None]:
    """Let SIGTERM, which batch systems send, end a run as Ctrl-C does."""
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
