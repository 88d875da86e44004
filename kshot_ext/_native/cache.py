"""The cache folder: where it is, whether it is safe to load code from, the lock on it, its entries."""

import contextlib
import os
import shutil
import socket
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from kshot_ext._native import notices
from kshot_ext._native.errors import BackendError
from kshot_ext._native.file_lock import LocksUnsupportedError, try_lock

_LOCK = "lock"
_PRIVATE = "building-"
_POLL_SECONDS = 0.1
_SILENT_SECONDS = 2.0
_STALE_SECONDS = 24 * 3600.0
ELSEWHERE = "name another folder in the environment variable KSHOT_EXT_CACHE"


def default_folder() -> Path:
    """`$KSHOT_EXT_CACHE`, else `$XDG_CACHE_HOME/kshot_ext`, else `~/.cache/kshot_ext`.

    Raises:
        BackendError: it would be in the home folder, and there is none.
    """
    try:
        if chosen := os.environ.get("KSHOT_EXT_CACHE"):
            return Path(chosen).expanduser().absolute()
        caches = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
        if not caches.is_absolute():  # such a value counts as unset
            caches = Path("~/.cache").expanduser()
    except (RuntimeError, OSError) as error:
        raise BackendError(
            f"user id {os.geteuid()} has no home folder to keep the compiled library in ({error}); {ELSEWHERE}"
        ) from error
    return caches.absolute() / "kshot_ext"


def make_folder(folder: Path) -> None:
    """Create the cache folder, closed to other users, unless it is there; check it either way.

    Raises:
        BackendError: it cannot be created or written, or `check_folder` refuses it.
    """
    with as_backend_error(folder):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError("no permission to write there")
        check_folder(folder)


def check_folder(folder: Path) -> None:
    """Refuse a folder into which another user could have put a library for this process to run.

    Root may own it: whoever is root can change what this process runs in any case, and an image that was built as
    root serves all its users.

    Raises:
        BackendError: another user owns `folder`, or group or others may write to it.
    """
    if complaint := _complaint(folder.stat()):
        raise BackendError(f"the cache folder {folder} {complaint}: a library in it cannot be trusted; {ELSEWHERE}")


def check_file(path: Path) -> None:
    """Refuse a file that another user could have written, though it lies in a folder that is safe.

    Raises:
        BackendError: `path` is a link or no file, another user owns it, or group or others may write to it.
    """
    status = path.lstat()
    kind = "" if stat.S_ISREG(status.st_mode) else "is no file of its own but a link, a folder or a device"
    if complaint := kind or _complaint(status):
        raise BackendError(f"the cached file {path} {complaint}: it cannot be trusted; remove it, or {ELSEWHERE}")


def _complaint(status: os.stat_result) -> str:
    """Why the file or folder of this status may hold what other users wrote; empty if it cannot."""
    if status.st_uid not in (os.geteuid(), 0):
        return f"belongs to user id {status.st_uid}, expected {os.geteuid()} or root"
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        mode = stat.S_IMODE(status.st_mode)
        return f"may be written by other users (mode {mode:03o}; chmod go-w cures it)"
    return ""


@contextlib.contextmanager
def locked(folder: Path, seconds: float) -> Iterator[bool]:
    """Hold the lock on the cache folder; the kernel frees it when the holder dies, however it dies.

    Where the file system has no locks it goes on without one: a build lies in a folder of its own until it is
    finished, so that several at once only cost time.

    Args:
        folder: the cache folder, which exists.
        seconds: how long to wait for another holder.

    Returns:
        Whether no other process builds in this folder.

    Raises:
        BackendError: another process still holds the lock after `seconds`.
    """
    path = folder / _LOCK
    with contextlib.ExitStack() as stack:
        with as_backend_error(folder):
            # Not truncated, because opening must not wipe the name that the present holder wrote; network file
            # systems lock for writing only what is open for writing.
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        stack.callback(os.close, descriptor)
        alone = _acquire(descriptor, path, seconds)
        with contextlib.suppress(OSError):  # it only tells others whom they wait for
            os.truncate(descriptor, 0)
            os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode())
        yield alone


@contextlib.contextmanager
def private_folder(folder: Path, alone: bool) -> Iterator[Path]:
    """A new empty folder in the cache folder for one build, removed at the end.

    What dead builds left behind is removed too: with `alone`, which means that no other process builds, all of it;
    else what no build can be at any more.
    """
    with as_backend_error(folder):
        oldest = time.time() - (0 if alone else _STALE_SECONDS)
        for stale in folder.glob(f"{_PRIVATE}*"):
            if alone or stale.lstat().st_mtime < oldest:
                shutil.rmtree(stale, ignore_errors=True)
        private = Path(tempfile.mkdtemp(prefix=_PRIVATE, dir=folder))
    try:
        yield private
    finally:
        shutil.rmtree(private, ignore_errors=True)


def publish(private: Path, entry: Path) -> None:
    """Rename a finished build into its place, which a damaged build may occupy."""
    with as_backend_error(entry.parent):
        if entry.is_dir():
            shutil.rmtree(entry)
        os.rename(private, entry)


def _acquire(descriptor: int, path: Path, seconds: float) -> bool:
    """Poll for the lock, and say once whom this process waits for; return whether there is a lock to be had."""
    begin = time.monotonic()
    announced = False
    while True:
        try:
            if try_lock(descriptor):
                return True
        except LocksUnsupportedError:
            return False
        except OSError as error:
            raise BackendError(f"the lock {path} cannot be had ({error}); {ELSEWHERE}") from error
        waited = time.monotonic() - begin
        if waited > seconds:
            raise BackendError(
                f"waited {seconds:.0f} s for the lock {path}, held by {_holder(path)}; end that process, or {ELSEWHERE}"
            )
        if waited > _SILENT_SECONDS and not announced:
            announced = True
            notices.tell(f"waiting for {_holder(path)}, which builds (lock {path})")
        time.sleep(_POLL_SECONDS)


def _holder(path: Path) -> str:
    with contextlib.suppress(OSError):
        if name := path.read_text(encoding="utf-8", errors="replace"):
            return name
    return "another process"


@contextlib.contextmanager
def as_backend_error(folder: Path, use: str = "written") -> Iterator[None]:
    """Errors of the system, of a full disk say, as errors that name the cache folder and the cure."""
    try:
        yield
    except OSError as error:
        raise BackendError(f"the cache folder {folder} cannot be {use} ({error}); {ELSEWHERE}") from error
