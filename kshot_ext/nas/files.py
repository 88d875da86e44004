"""Reading and writing files: a reader finds the old content or the new, never a part, and no strange file hangs it."""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from kshot_ext.nas.messages import visible

_UNFINISHED = ".unfinished-"
_MOST_BYTES = 2**30


class WriteError(OSError):
    """A file cannot be written; the message names it and the reason. What was there before is still there."""

    def __str__(self) -> str:
        return f"{visible(str(self.filename))}: cannot be written ({self.strerror})"


@contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """Turn what the system says against writing a file into a `WriteError` that names the file."""
    try:
        yield
    except OSError as error:
        raise WriteError(error.errno, error.strerror or str(error), str(path)) from error


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a path of the same name in a temporary folder; the file there takes the place of ``path`` when the block
    ends well, on disk before it is seen.

    The folder is beside ``path``, so on the same file system, and takes with it what writers leave in it.

    Raises:
        WriteError: if the file cannot be written; the old one is untouched then.

    Example:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "note.txt"
        >>> with atomic_path(target) as temporary:
        ...     _ = temporary.write_text("whole")
        >>> target.read_text()
        'whole'
    """
    with write_errors(path):
        folder = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=path.parent))
        try:
            temporary = folder / path.name
            yield temporary
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.chmod(0o666 & ~_umask())
            os.replace(temporary, path)
            _sync_folder(path.parent)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, as UTF-8.

    Bytes of names that are no UTF-8 become ``\\udc..``, which JSON reads back as what they were.
    """
    write_bytes(path, as_utf8(text))


def as_utf8(text: str) -> bytes:
    """The bytes of a text file."""
    return text.encode("utf-8", "backslashreplace")


def append_line(path: Path, line: str, *, sync: bool = True) -> None:
    """Add a line to a file; a line that does not fit leaves no part of itself.

    Args:
        path: the file, no link.
        line: without its end.
        sync: whether it is on disk when this returns.

    Raises:
        WriteError: if it cannot be written.
    """
    with write_errors(path), open(path, "ab", buffering=0, opener=_open_itself) as file:
        before = os.fstat(file.fileno()).st_size
        content = memoryview(as_utf8(f"{line}\n"))
        try:
            while content:
                content = content[file.write(content) :]
            if sync:
                os.fsync(file.fileno())
        except OSError:
            with suppress(OSError):
                file.truncate(before)
            raise


def _open_itself(path: str, flags: int) -> int:
    """Open a file that is no link, which could lead anywhere, and no pipe that would wait for a reader."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)


def check_can_write(folder: Path, names: Iterable[str]) -> None:
    """Find out now what would keep files from being written later; leaves nothing behind.

    Args:
        folder: where they will be.
        names: of the files.

    Raises:
        WriteError: if something does.
    """
    for path in (folder / name for name in names):
        with write_errors(path):
            if path.is_dir():
                raise IsADirectoryError(errno.EISDIR, "there is a folder of this name; move it away")
            is_there(path)  # its name may be too long
    with write_errors(folder):
        os.rmdir(tempfile.mkdtemp(prefix=_UNFINISHED, dir=folder))


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Give a temporary folder beside ``path``; it becomes ``path`` when the block ends well.

    Raises:
        FileExistsError: if there is something at ``path``; of several processes that want it, one gets it.
        WriteError: if it cannot be made.
    """
    with write_errors(path):
        temporary = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=path.parent))
    try:
        yield temporary
        with write_errors(path):
            temporary.chmod(0o777 & ~_umask())
            _sync_folder(temporary)
        _rename_to_new(temporary, path)
        _sync_folder(path.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _rename_to_new(temporary: Path, path: Path) -> None:
    try:
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
        os.rename(temporary, path)  # refused by the system if a folder with something in it came in between
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from error
        raise WriteError(error.errno, error.strerror, str(path)) from error


def remove_unfinished(folder: Path, besides: Path | None = None) -> None:
    """Delete what killed processes left of files that `atomic_path` was to write in a folder or below.

    No other process may be writing there.

    Args:
        folder: where.
        besides: a folder below it that is left alone; None for none.
    """
    for path in folder.rglob(f"{_UNFINISHED}*"):
        if besides is not None and besides in path.parents:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def check_regular(path: Path) -> None:
    """Refuse what only looks like a file: opening a pipe waits for a writer, a device never ends.

    Raises:
        OSError: if there is none, or it is something else. A link to nowhere is not no file.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        kind = "a folder" if path.is_dir() else "a pipe, socket or device"
        raise OSError(errno.EINVAL, f"expected a file, got {kind}", str(path))


def read_bytes(path: Path, *, pipes: bool = False) -> bytes:
    """The content of a file.

    Args:
        path: the file.
        pipes: whether it may be a pipe, which is waited for.

    Raises:
        OSError: if it cannot be read, is no regular file, or too large to be one of ours.
    """
    if pipes and path.is_fifo():
        return path.read_bytes()
    check_regular(path)
    # Without waiting, should a pipe have taken its place since.
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > _MOST_BYTES:
            raise OSError(errno.EFBIG, f"expected at most {_MOST_BYTES:,} bytes, got {size:,}", str(path))
        return file.read()


def read_text(path: Path, *, pipes: bool = False) -> str:
    """The content of a text file of UTF-8, without the mark that some editors put in front; see `read_bytes`.

    Raises:
        OSError: as `read_bytes`.
        ValueError: if it is no UTF-8.
    """
    return read_bytes(path, pipes=pipes).decode("utf-8-sig")


def read_json(path: Path) -> Any:
    """The value in a JSON file.

    Raises:
        OSError: as `read_bytes`.
        ValueError: if it is no JSON.
    """
    return parse_json(read_text(path))


def parse_json(text: str) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: if it is none.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("brackets are nested too deeply") from None


def is_there(path: Path) -> bool:
    """Whether there is anything of this name, be it a link to nowhere: that is damage, not the lack of a file.

    Raises:
        OSError: if the system does not tell.
    """
    try:
        path.lstat()
    except FileNotFoundError:
        return False
    return True


def _sync_folder(folder: Path) -> None:
    """Bring names in a folder to disk, where the file system can."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
