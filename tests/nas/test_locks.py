"""Locks on local file systems, on NFS (by what flock(2) says of it), and where there are none."""

from __future__ import annotations

import errno
import fcntl
import multiprocessing
import os
from pathlib import Path

import pytest

from kshot_ext._native.file_lock import LocksUnsupportedError, try_lock
from kshot_ext.nas import locks
from kshot_ext.nas.locks import FileLock, LockHeldError, locked


def _flock_of_nfs(descriptor: int, operation: int) -> None:
    """A write lock on all bytes, which needs a descriptor open for writing."""
    if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    _flock(descriptor, operation)


_flock = fcntl.flock


def _no_flock(number: int):
    def flock(descriptor: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    return flock


@pytest.fixture(params=["local", "NFS", "ENOLCK", "ENOSYS", "EOPNOTSUPP"])
def file_system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What flock does there."""
    kinds = {"local": _flock, "NFS": _flock_of_nfs}
    flock = kinds[request.param] if request.param in kinds else _no_flock(getattr(errno, request.param))
    monkeypatch.setattr(fcntl, "flock", flock)
    return request.param


def test_a_lock_is_held_by_one_and_leaves_nothing(tmp_path: Path, file_system: str) -> None:
    lock = FileLock(tmp_path / ".lock")
    with pytest.raises(LockHeldError):
        FileLock(tmp_path / ".lock")
    lock.release()
    assert list(tmp_path.iterdir()) == []
    lock.release()  # once more does no harm
    FileLock(tmp_path / ".lock").release()


def test_a_file_system_without_locks_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(fcntl, "flock", _no_flock(errno.ENOLCK))
    lock = FileLock(tmp_path / ".lock")
    with pytest.raises(LockHeldError, match=r"no locks; if no process is, delete .*\.lock\.held"):
        FileLock(tmp_path / ".lock", seconds=0.1)
    (said,) = caplog.messages
    assert "this file system has no locks; the file .lock.held stands in for one" in said
    lock.release()


def _count(folder: Path) -> None:
    for _ in range(20):
        with locked(folder / ".lock", 60):
            before = int((folder / "number").read_text())
            (folder / "number").write_text(str(before + 1))


def test_processes_take_turns(tmp_path: Path, file_system: str) -> None:
    """A process that waits opens the file that the holder deletes; both must not be inside then."""
    (tmp_path / "number").write_text("0")
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_count, args=(tmp_path,)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert (tmp_path / "number").read_text() == "60"


def test_a_dead_holder_holds_nothing(tmp_path: Path) -> None:
    process = multiprocessing.get_context("fork").Process(target=lambda: (FileLock(tmp_path / ".lock"), os._exit(9)))
    process.start()
    process.join()
    assert process.exitcode == 9
    assert (tmp_path / ".lock").exists()
    FileLock(tmp_path / ".lock").release()


def test_errors_of_another_kind_stay_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", _no_flock(errno.EIO))
    with pytest.raises(OSError, match=r"\.lock: cannot be written"):
        FileLock(tmp_path / ".lock")
    with (tmp_path / "file").open("wb") as file, pytest.raises(OSError, match="Input/output") as caught:
        try_lock(file.fileno())
    assert not isinstance(caught.value, LocksUnsupportedError)


@pytest.mark.parametrize("make", [Path.mkdir, lambda path: path.symlink_to("elsewhere")])
def test_something_else_in_its_place_is_an_error(tmp_path: Path, make) -> None:
    make(tmp_path / ".lock")
    with pytest.raises(OSError, match=r"\.lock: cannot be written"):
        FileLock(tmp_path / ".lock")
    assert not (tmp_path / "elsewhere").exists()


def test_a_lock_on_a_file_that_its_last_holder_deleted_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It deletes the file after this process opened it, and before it locks it."""
    path, tries = tmp_path / ".lock", []

    def late(descriptor: int) -> bool:
        if not tries:
            path.unlink()
        tries.append(descriptor)
        return try_lock(descriptor)

    monkeypatch.setattr(locks, "try_lock", late)
    lock = FileLock(path, seconds=10)
    assert len(tries) == 2
    with pytest.raises(LockHeldError):
        FileLock(path)
    lock.release()
