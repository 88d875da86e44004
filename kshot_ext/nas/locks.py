"""Locks between processes, on local and on network file systems."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from kshot_ext._native.file_lock import LocksUnsupportedError, try_lock
from kshot_ext.nas.extras import require
from kshot_ext.nas.files import write_errors
from kshot_ext.nas.messages import notice

_POLL_SECONDS = 0.02
_SUBSTITUTE = ".held"


class LockHeldError(Exception):
    """Another process holds a lock; the message is empty, or goes on after "another process is at work"."""


class FileLock:
    """A lock, held until :meth:`release` or the death of this process.

    It is the kernel's lock on a file of its own, which its holder deletes in the end. Where the file system has no
    locks, the existence of another file, ``PATH.held``, stands in for it, which is said: this file outlives a machine
    that crashes, and then must be deleted by hand.

    Args:
        path: the file to lock.
        seconds: how long to wait for another holder.

    Raises:
        LockHeldError: if another holds it.
        WriteError: if the file cannot be made.
    """

    def __init__(self, path: Path, seconds: float = 0.0) -> None:
        self._path = path
        self._hint = ""
        self._file: BinaryIO | None = None
        self._release_substitute: Callable[[], None] | None = None
        deadline = time.monotonic() + seconds
        with write_errors(path):
            while not self._try():
                if time.monotonic() >= deadline:
                    raise LockHeldError(self._hint)
                time.sleep(_POLL_SECONDS)

    def release(self) -> None:
        """Let others have it."""
        if self._file is not None:
            with self._file, suppress(OSError):  # the folder may be gone
                self._path.unlink(missing_ok=True)
            self._file = None
        if self._release_substitute is not None:
            self._release_substitute()
            self._release_substitute = None

    def _try(self) -> bool:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        file = os.fdopen(os.open(self._path, flags, 0o666), "r+b", buffering=0)
        try:
            if try_lock(file.fileno()) and self._is_still_named(file):
                self._file = file
                return True
        except LocksUnsupportedError:
            self._path.unlink(missing_ok=True)
            return self._try_substitute(self._path.with_name(self._path.name + _SUBSTITUTE))
        finally:
            if self._file is None:
                file.close()
        return False

    def _is_still_named(self, file: BinaryIO) -> bool:
        """Whether the name still means the file that was opened: its last holder deletes it."""
        try:
            return os.path.samestat(os.stat(self._path), os.fstat(file.fileno()))
        except FileNotFoundError:
            return False

    def _try_substitute(self, path: Path) -> bool:
        filelock = require("filelock")
        lock = filelock.SoftFileLock(str(path), timeout=0, thread_local=False)
        try:
            lock.acquire()
        except filelock.Timeout:
            self._hint = f", or its machine crashed: this file system has no locks; if no process is, delete {path}"
            return False
        notice(f"{path.parent}: this file system has no locks; the file {path.name} stands in for one for now")
        self._release_substitute = lock.release
        return True


@contextmanager
def locked(path: Path, seconds: float) -> Iterator[None]:
    """Hold a lock inside the block. Takes and raises what `FileLock` does."""
    lock = FileLock(path, seconds)
    try:
        yield
    finally:
        lock.release()
