"""The folder of one run: its settings, and a checkpoint per stage."""

from __future__ import annotations

import fcntl
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from kshot_ext.nas.files import atomic_path, write_text
from kshot_ext.nas.settings import RunSettings
from kshot_ext.nas.tables import as_table, override, read_toml, to_toml

_SETTINGS = "settings.toml"
_CHECKPOINTS = "checkpoints"


class RunFolderError(RuntimeError):
    """A run folder cannot be used; the message names it."""


@dataclass(frozen=True)
class Checkpoint:
    """Where a stage stands.

    Args:
        state: the stage's ``state_dict()``: tensors and plain values.
        seconds: time that the stage has taken so far.
    """

    state: dict[str, Any]
    seconds: float


class RunFolder:
    """One run on disk; held by one process at a time.

    Args:
        path: an existing run folder.

    Raises:
        RunFolderError: if it is no run folder, or another process is using it.
        SettingsError: if its settings cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._lock = (path / _SETTINGS).open("rb")
        except OSError as error:
            raise RunFolderError(f"{path}: not a run folder ({_SETTINGS}: {error.strerror})") from error
        try:
            # The kernel frees the lock when its holder dies, however it dies.
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._lock.close()
            raise RunFolderError(f"{path}: another process is working on this run") from error
        table = read_toml(path / _SETTINGS)
        self.settings = override(RunSettings(), table, str(path / _SETTINGS))

    @classmethod
    def create(cls, path: Path, settings: RunSettings) -> RunFolder:
        """Make a new run folder.

        Raises:
            RunFolderError: if there is something at ``path`` already, or it cannot be made.
        """
        try:
            path.mkdir(parents=True)
            (path / _CHECKPOINTS).mkdir()
        except FileExistsError as error:
            raise RunFolderError(f"{path}: exists already; choose another --out, or --resume it") from error
        except OSError as error:
            raise RunFolderError(f"{path}: cannot be created ({error.strerror})") from error
        write_text(path / _SETTINGS, to_toml(as_table(settings)))
        return cls(path)

    def close(self) -> None:
        """Let other processes use the folder."""
        self._lock.close()

    def save_checkpoint(self, stage: str, checkpoint: Checkpoint) -> None:
        """Replace the checkpoint of a stage, atomically."""
        with atomic_path(self._checkpoint(stage)) as temporary:
            torch.save(asdict(checkpoint), temporary)

    def load_checkpoint(self, stage: str) -> Checkpoint | None:
        """Return the checkpoint of a stage, or None if it has none yet.

        Raises:
            RunFolderError: if the file is damaged.
        """
        path = self._checkpoint(stage)
        if not path.exists():
            return None
        try:
            return Checkpoint(**torch.load(path, weights_only=True))
        except Exception as error:  # A damaged file makes the reader raise nearly anything.
            raise RunFolderError(f"{path}: damaged checkpoint ({error})") from error

    def _checkpoint(self, stage: str) -> Path:
        return self.path / _CHECKPOINTS / f"{stage}.pt"
