"""A run that is begun or gone on with: its settings, its folder, and how to go on if it ends early."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType

from kshot_ext.nas.api.start import Start
from kshot_ext.nas.datasets.splits import DataSplits
from kshot_ext.nas.extras import require
from kshot_ext.nas.messages import file_name, in_shell
from kshot_ext.nas.methods import allow_own_method
from kshot_ext.nas.own_classes import is_given
from kshot_ext.nas.runs.gather_settings import check_same, gather_settings, method_asked_for
from kshot_ext.nas.runs.run_card import RunCard
from kshot_ext.nas.runs.run_folder import RunFolder, RunFolderError, is_run_folder
from kshot_ext.nas.runs.run_log import LOG, RunLog
from kshot_ext.nas.runs.settings import AnySettings, SupernetSettings, check_method_begins, own_classes

_LIBRARIES = ("jinja2", "safetensors", "scipy", "tensorboard")


class Session:
    """A run that this process begins or goes on with; inside the context its log is kept, and at the end others may use
    its folder.

    Args:
        command: ``"search"`` or ``"rank"``.
        resume: run folder to go on with, or None to begin a new one.
        in_program: whether it is a program that begins it, and would go on with it; default: a command.

    Attributes:
        follows: whether another process does the run, and this one helps it.
        path: the run folder, as soon as there is one that this process knows of.
        own_classes: what has to be given again to go on, by the setting, as soon as it is known; see `to_give_again`.
    """

    def __init__(self, command: str, resume: Path | None = None, in_program: bool = False) -> None:
        self.command = command
        self.resume = resume
        self.in_program = in_program
        self.follows = False
        self.folder: RunFolder | None = None
        self.path = resume
        self.own_classes: dict[str, str] = {}
        self._log = RunLog()

    def __enter__(self) -> Session:
        self._log.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._log.__exit__(kind, error, trace)
        self.close()

    def settings(self, defaults: AnySettings, start: Start) -> AnySettings:
        """The run's settings, checked to be the ones that it began with.

        Args:
            defaults: what holds where nothing else says anything.
            start: what is asked for.

        Raises:
            MissingExtraError: if a library is not installed that a run needs.
            RunFolderError: if the folder to go on with cannot be used.
            SettingsError: if the settings are unusable, are refused by the method, or are others than the run's.
        """
        for library in _LIBRARIES:
            require(library)
        if self.resume is None:
            settings = gather_settings(defaults, start.config, start.options, start.origin)
            check_method_begins(settings)
            return settings
        allow_own_method(method_asked_for(start.options))
        self.folder = RunFolder(self.resume, self.command)
        self.own_classes = to_give_again(self.folder.settings)
        settings = gather_settings(self.folder.settings, start.config, start.options, start.origin)
        check_same(self.folder.settings, settings, str(self.resume))
        return settings

    def open_folder(
        self, settings: AnySettings, data_name: str, splits: DataSplits, outputs: Sequence[str]
    ) -> RunFolder[AnySettings]:
        """The run's folder; a new one is made when everything else has been checked, so errors leave nothing behind.

        Args:
            settings: of the run.
            data_name, splits: its images.
            outputs: names of the files that it will leave there.

        Raises:
            RunFolderError: if it cannot be made, or settings or data are not what the run began with.
            WriteError: if an output could not be written.
        """
        if self.folder is None:
            kept = replace(settings, out=None)
            card = RunCard.new(self.command, kept, data_name, splits)
            if settings.out is None:
                space = Path(settings.space.rpartition(":")[-1]).name
                default = f"{time.strftime('%Y%m%d-%H%M%S')}-{file_name(data_name)}-{file_name(space)}"
                self.folder = RunFolder.create_beside(Path("runs") / default, kept, card)
            else:
                self.folder = RunFolder.create(Path(settings.out), kept, card)
            self.path, self.own_classes = self.folder.path, to_give_again(settings)
        else:
            try:
                self.folder.card.check_continues(settings, splits)
            except ValueError as error:
                raise RunFolderError(f"{self.folder.path}: {error}") from error
        self.folder.check_outputs([*outputs, LOG])
        self._log.write_to(self.folder.path)
        return self.folder

    def close(self) -> None:
        """Let other processes use the run's folder."""
        if self.folder is not None:
            self.folder.close()

    def how_to_go_on(self) -> str:
        """What to tell who interrupted the run, or whom an error did."""
        if self.path is None:
            return "what was written is said by the first process" if self.follows else "nothing was written"
        if not self.follows and not is_run_folder(self.path):  # that of others may be on another machine
            return f"there is no run in {self.path} any more; begin it anew"
        command = f"kshot-ext {self.command} --resume {in_shell(self.path)}"
        if self.in_program or any(map(is_given, self.own_classes.values())):
            again = {setting: "..." if is_given(name) else repr(name) for setting, name in self.own_classes.items()}
            given = "".join(f", {setting}={name}" for setting, name in again.items())
            command = f"nas.{self.command}(resume={str(self.path)!r}{given})"
        else:
            for setting, name in self.own_classes.items():
                command += f" --{setting} {in_shell(name)}"
        return f"what was saved before is safe; go on with: {command}"


def to_give_again(settings: SupernetSettings) -> dict[str, str]:
    """Names, by the setting, of what whoever goes on with a run has to give again: own classes, and images that are an
    object."""
    images = {"data": settings.data} if settings.data is not None and is_given(settings.data) else {}
    return {**own_classes(settings), **images}
