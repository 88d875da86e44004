"""The cache folder: where it is, whether it is safe to load code from, the lock on it, its entries."""

import contextlib
import fcntl
import os
import shutil
import socket
import stat
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from kshot_ext._native.errors import BackendError

_LOCK = "lock"
_PRIVATE = "building-"
_POLL_SECONDS = 0.1
_SILENT_SECONDS = 2.0
_ELSEWHERE = "name another folder in the environment variable KSHOT_EXT_CACHE"


def default_folder() -> Path:
    """`$KSHOT_EXT_CACHE`, else `$XDG_CACHE_HOME/kshot_ext`, else `~/.cache/kshot_ext`."""
    if chosen := os.environ.get("KSHOT_EXT_CACHE"):
        return Path(chosen).expanduser().absolute()
    caches = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(caches).expanduser().absolute() / "kshot_ext"


def make_folder(folder: Path) -> None:
    """Create the cache folder, closed to other users, unless it is there; check it either way.

    Raises:
        BackendError: it cannot be created or written, or `check_owner` refuses it.
    """
    with _as_backend_error(folder):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError("no permission to write there")
    check_owner(folder)


def check_owner(folder: Path) -> None:
    """Refuse a folder into which another user could have put a library for this process to run.

    Raises:
        BackendError: another user owns `folder`, or group or others may write to it.
    """
    status = folder.stat()
    if status.st_uid != os.geteuid():
        complaint = f"belongs to user id {status.st_uid}, expected {os.geteuid()}"
    elif status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        mode = stat.S_IMODE(status.st_mode)
        complaint = f"may be written by other users (mode {mode:03o}, expected 700; chmod go-w cures it)"
    else:
        return
    raise BackendError(f"the cache folder {folder} {complaint}: a library in it cannot be trusted; {_ELSEWHERE}")


@contextlib.contextmanager
def locked(folder: Path, seconds: float) -> Iterator[None]:
    """Hold the lock on the cache folder; the kernel frees it when the holder dies, however it dies.

    Args:
        folder: the cache folder, which exists.
        seconds: how long to wait for another holder.

    Raises:
        BackendError: another process still holds the lock after `seconds`.
    """
    path = folder / _LOCK
    with contextlib.ExitStack() as stack:
        with _as_backend_error(folder):
            # Appending, because opening must not wipe the name that the present holder wrote.
            file = stack.enter_context(path.open("a", encoding="utf-8"))
        _acquire(file.fileno(), path, seconds)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield


@contextlib.contextmanager
def private_folder(folder: Path) -> Iterator[Path]:
    """A new empty folder in the cache folder for one build, removed at the end; needs the lock.

    Whoever holds the lock is the only one that builds, so what dead builds left behind is removed too.
    """
    with _as_backend_error(folder):
        for stale in folder.glob(f"{_PRIVATE}*"):
            shutil.rmtree(stale, ignore_errors=True)
        private = Path(tempfile.mkdtemp(prefix=_PRIVATE, dir=folder))
    try:
        yield private
    finally:
        shutil.rmtree(private, ignore_errors=True)


def publish(private: Path, entry: Path) -> None:
    """Rename a finished build into its place, which a damaged build may occupy; needs the lock."""
    with _as_backend_error(entry.parent):
        if entry.is_dir():
            shutil.rmtree(entry)
        os.rename(private, entry)


def _acquire(descriptor: int, path: Path, seconds: float) -> None:
    """Poll for the lock, and say once whom this process waits for."""
    begin = time.monotonic()
    announced = False
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waited = time.monotonic() - begin
        if waited > seconds:
            raise BackendError(
                f"waited {seconds:.0f} s for the lock {path}, held by {_holder(path)}; "
                f"end that process, or {_ELSEWHERE}"
            )
        if waited > _SILENT_SECONDS and not announced:
            announced = True
            print(
                f"kshot_ext: waiting for {_holder(path)}, which builds (lock {path})",
                file=sys.stderr,
                flush=True,
            )
        time.sleep(_POLL_SECONDS)


def _holder(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") or "another process"


@contextlib.contextmanager
def _as_backend_error(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BackendError(f"the cache folder {folder} cannot be written ({error}); {_ELSEWHERE}") from error
