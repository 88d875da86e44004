"""The folder of one run: its card, its settings, and a checkpoint per stage."""

from __future__ import annotations

import fcntl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic

from kshot_ext.nas.files import atomic_folder, atomic_path, remove_unfinished, write_text
from kshot_ext.nas.runs.run_card import RunCard, RunCardError
from kshot_ext.nas.runs.settings import AnySettings, RankSettings, RunSettings, SupernetSettings
from kshot_ext.nas.runs.state_file import StateFileError, load_state, save_state
from kshot_ext.nas.tables import as_table, override, read_toml, to_toml

_CARD = "run.json"
_SETTINGS = "settings.toml"
_CHECKPOINTS = "checkpoints"
_KINDS: Mapping[str, type[SupernetSettings]] = {"search": RunSettings, "rank": RankSettings}


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
            self.card = RunCard.from_json((path / _CARD).read_text(encoding="utf-8"))
            kind = _KINDS[self.card.command]
        except OSError as error:
            raise RunFolderError(f"{path}: not a run folder ({_CARD}: {error.strerror})") from error
        except (RunCardError, KeyError, UnicodeDecodeError) as error:
            raise RunFolderError(f"{path / _CARD}: {error}") from error
        table = read_toml(path / _SETTINGS)
        self.settings: AnySettings = override(kind(), table, str(path / _SETTINGS))

    def load_checkpoint(self, stage: str) -> Checkpoint | None:
        """Return the checkpoint of a stage, or None if it has none yet.

        Raises:
            RunFolderError: if the file is damaged.
        """
        path = self._checkpoint(stage)
        if not path.exists():
            return None
        try:
            return Checkpoint(**load_state(path))
        except (StateFileError, TypeError) as error:
            raise RunFolderError(f"damaged checkpoint: {error}") from error

    def _checkpoint(self, stage: str) -> Path:
        return self.path / _CHECKPOINTS / f"{stage}.safetensors"


class RunFolder(RunRecord[AnySettings]):
    """One run on disk, to go on with; held by one process at a time.

    Args:
        path: an existing run folder.
        command: whose run it must be: ``"search"`` or ``"rank"``.

    Raises:
        RunFolderError: if it is no such run folder, or another process is using it.
        SettingsError: if its settings cannot be read.
    """

    def __init__(self, path: Path, command: str) -> None:
        super().__init__(path)
        if self.card.command != command:
            raise RunFolderError(f"{path}: expected a run of kshot-ext {command}, got one of {self.card.command}")
        self._lock = (path / _CARD).open("rb")
        try:
            # The kernel frees the lock when its holder dies, however it dies.
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._lock.close()
            raise RunFolderError(f"{path}: another process is working on this run") from error
        remove_unfinished(path)

    @classmethod
    def create(cls, path: Path, settings: AnySettings, card: RunCard) -> RunFolder[AnySettings]:
        """Make a new run folder: whole or, if the process is killed, not at all.

        Raises:
            RunFolderError: if there is something at ``path`` already, or it cannot be made.
        """
        if path.exists():
            raise RunFolderError(f"{path}: exists already; choose another --out, or --resume it")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_folder(path) as folder:
                (folder / _CHECKPOINTS).mkdir()
                write_text(folder / _SETTINGS, to_toml(as_table(settings)))
                write_text(folder / _CARD, card.to_json())
        except OSError as error:
            raise RunFolderError(f"{path}: cannot be created ({error.strerror})") from error
        return cls(path, card.command)

    def close(self) -> None:
        """Let other processes use the folder."""
        self._lock.close()

    def save_checkpoint(self, stage: str, checkpoint: Checkpoint) -> None:
        """Replace the checkpoint of a stage, atomically."""
        with atomic_path(self._checkpoint(stage)) as temporary:
            save_state(temporary, vars(checkpoint))
