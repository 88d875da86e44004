"""The folder of one run: its card, its settings, and a checkpoint per stage."""

from __future__ import annotations

import errno
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Generic

from kshot_ext.nas.files import (
    atomic_folder,
    atomic_path,
    check_can_write,
    is_there,
    read_text,
    remove_unfinished,
    write_text,
)
from kshot_ext.nas.locks import FileLock, LockHeldError
from kshot_ext.nas.messages import one_line, visible
from kshot_ext.nas.runs.gather_settings import with_table
from kshot_ext.nas.runs.metrics import is_record
from kshot_ext.nas.runs.run_card import RunCard, RunCardError
from kshot_ext.nas.runs.settings import AnySettings, RankSettings, RetrainRunSettings, RunSettings, SupernetSettings
from kshot_ext.nas.runs.state_file import StateFileError, load_state, save_state
from kshot_ext.nas.tables import as_table, read_toml, to_toml

_CARD = "run.json"
_SETTINGS = "settings.toml"
_CHECKPOINTS = "checkpoints"
_LOCK = ".lock"
_KINDS: Mapping[str, type[SupernetSettings]] = {
    "search": RunSettings,
    "rank": RankSettings,
    "retrain": RetrainRunSettings,
}
RETRAINED = "retrained"
"""Folder inside a run's, of run folders of networks that are trained from scratch after it."""


class RunFolderError(RuntimeError):
    """A run folder cannot be used; the message names it."""


class RunExistsError(RunFolderError):
    """There is something at the place of a new run folder."""


def is_run_folder(path: Path) -> bool:
    """Whether there is a run in a folder, as far as the system tells."""
    try:
        return (path / _CARD).is_file()
    except OSError:
        return True


@dataclass(frozen=True)
class Checkpoint:
    """Where a stage stands.

    Args:
        state: the stage's ``state_dict()``: tensors and plain values.
        seconds: time that the stage has taken so far.
        records: the numbers of the steps done, as in ``metrics.jsonl``.
    """

    state: dict[str, Any]
    seconds: float
    records: Sequence[Mapping[str, Any]] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.state, dict) or not isinstance(self.seconds, float) or not math.isfinite(self.seconds):
            raise ValueError(f"expected a state and seconds, got {self.seconds!r:.80}")
        if not all(map(is_record, self.records)):
            raise ValueError("expected records of the steps done")


class RunRecord(Generic[AnySettings]):
    """What is in a run folder, for reading only; the run may be going on.

    Args:
        path: an existing run folder.

    Raises:
        RunFolderError: if it is no run folder.
        SettingsError: if its settings cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.card = RunCard.from_json(read_text(path / _CARD))
        except OSError as error:
            raise RunFolderError(f"{path}: not a run folder ({_CARD}: {error.strerror})") from error
        except ValueError as error:
            raise RunFolderError(f"{path / _CARD}: {one_line(error)}") from error
        file = path / _SETTINGS
        table = read_toml(file)
        before: Any = _KINDS[self.card.command].of_older_runs()
        self.settings: AnySettings = with_table(before, table, str(file))
        try:
            self.card.check_settings(table)
        except RunCardError as error:
            raise RunFolderError(f"{file}: {error}") from error

    @property
    def name(self) -> str:
        """What the folder is called, for people."""
        return visible(self.path.resolve().name)

    def load_checkpoint(self, stage: str) -> Checkpoint | None:
        """Return the checkpoint of a stage, or None if it has none yet.

        Raises:
            RunFolderError: if the file is damaged, or that of another run or stage.
        """
        path = self.checkpoint_path(stage)
        try:
            if not is_there(path):
                return None
            fields = load_state(path)
            owner = {name: fields.pop(name) for name in ("run", "stage")}
            checkpoint = Checkpoint(**fields)
        except (StateFileError, OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise RunFolderError(
                f"damaged checkpoint: {one_line(error)}; "
                f"bring {path} back from a copy, or delete it to do its stage again"
            ) from error
        if owner != {"run": self.card.digest, "stage": stage}:
            raise RunFolderError(
                f"{path}: expected the {stage} checkpoint of this run, got one of another, or {_CARD} was changed; "
                "bring the right file back, or delete the checkpoint to do its stage again"
            )
        return checkpoint

    def checkpoint_path(self, stage: str) -> Path:
        """The file of a stage's checkpoint."""
        return self.path / _CHECKPOINTS / f"{stage}.safetensors"


class RunFolder(RunRecord[AnySettings]):
    """One run on disk, to go on with; held by one process at a time.

    Args:
        path: an existing run folder.
        command: whose run it must be: ``"search"``, ``"rank"`` or ``"retrain"``.

    Raises:
        RunFolderError: if it is no such run folder, or another process is using it.
        SettingsError: if its settings cannot be read.
    """

    def __init__(self, path: Path, command: str) -> None:
        super().__init__(path)
        if self.card.command != command:
            raise RunFolderError(f"{path}: expected a run of kshot-ext {command}, got one of {self.card.command}")
        try:
            self._lock = FileLock(path / _LOCK)
        except LockHeldError as error:
            raise RunFolderError(f"{path}: another process is working on this run{error}") from error
        remove_unfinished(path, besides=path / RETRAINED)  # where other processes may be at work
        self._make_checkpoints_folder()

    @classmethod
    def create(cls, path: Path, settings: AnySettings, card: RunCard) -> RunFolder[AnySettings]:
        """Make a new run folder: whole or, if the process is killed, not at all.

        Raises:
            RunExistsError: if there is something at ``path`` already.
            RunFolderError: if it cannot be made.
        """
        try:
            _make_folders(path.parent)
            with atomic_folder(path) as folder:
                (folder / _CHECKPOINTS).mkdir()
                write_text(folder / _SETTINGS, to_toml(as_table(settings)))
                write_text(folder / _CARD, card.to_json())
        except FileExistsError as error:
            raise RunExistsError(f"{path}: exists already; choose another --out, or --resume it") from error
        except OSError as error:
            raise RunFolderError(f"{path}: cannot be created ({error.strerror}); nothing was written") from error
        return cls(path, card.command)

    @classmethod
    def create_beside(cls, path: Path, settings: AnySettings, card: RunCard) -> RunFolder[AnySettings]:
        """Make a new run folder at ``path``, or, as long as there is something, with ``-2``, ``-3``, ... added.

        Raises:
            RunFolderError: if it cannot be made.
        """
        for number in count(1):
            try:
                return cls.create(path if number == 1 else path.with_name(f"{path.name}-{number}"), settings, card)
            except RunExistsError:
                continue
        raise AssertionError

    def close(self) -> None:
        """Let other processes use the folder."""
        self._lock.release()

    def check_outputs(self, names: Sequence[str]) -> None:
        """Find out before the work what would keep its results from being written.

        Raises:
            WriteError: if something does.
        """
        check_can_write(self.path, names)

    def save_checkpoint(self, stage: str, checkpoint: Checkpoint) -> None:
        """Replace the checkpoint of a stage, atomically.

        Raises:
            WriteError: if it cannot be written; the old one is untouched then.
        """
        owner = {"run": self.card.digest, "stage": stage}
        with atomic_path(self.checkpoint_path(stage)) as temporary:
            save_state(temporary, owner | vars(checkpoint))

    def _make_checkpoints_folder(self) -> None:
        folder = self.path / _CHECKPOINTS
        try:
            folder.mkdir(exist_ok=True)
        except OSError as error:
            raise RunFolderError(f"{folder}: expected a folder ({error.strerror}); move it away") from error


def _make_folders(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:  # an ancestor is a file
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path)) from error
