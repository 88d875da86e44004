"""The cache folder: where it is, who may write to it, and the lock."""

import errno
import fcntl
import os
import pwd
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kshot_ext._native import cache
from kshot_ext._native.errors import BackendError

STRANGER = 54321
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")

HOLD_LOCK = """
import sys, time
from pathlib import Path
from kshot_ext._native import cache
with cache.locked(Path(sys.argv[1]), 5):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"KSHOT_EXT_CACHE": "/a/b", "XDG_CACHE_HOME": "/x", "HOME": "/h"}, "/a/b"),
        ({"KSHOT_EXT_CACHE": "~/b", "HOME": "/h"}, "/h/b"),
        ({"XDG_CACHE_HOME": "/x", "HOME": "/h"}, "/x/kshot_ext"),
        ({"HOME": "/h"}, "/h/.cache/kshot_ext"),
        ({"XDG_CACHE_HOME": "relative", "HOME": "/h"}, "/h/.cache/kshot_ext"),
        ({"KSHOT_EXT_CACHE": "", "XDG_CACHE_HOME": "", "HOME": "/h"}, "/h/.cache/kshot_ext"),
    ],
)
def test_default_folder(variables: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("KSHOT_EXT_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert cache.default_folder() == Path(expected)


@pytest.mark.parametrize("chosen", [None, "~/cache", "~no-such-user/cache"])
def test_without_a_home_folder(chosen: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object) -> None:
        raise KeyError("no entry in passwd")

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    for name in ("HOME", "XDG_CACHE_HOME", "KSHOT_EXT_CACHE"):
        monkeypatch.delenv(name, raising=False)
    if chosen:
        monkeypatch.setenv("KSHOT_EXT_CACHE", chosen)
    with pytest.raises(BackendError, match=f"user id {os.geteuid()} has no home folder.*KSHOT_EXT_CACHE"):
        cache.default_folder()


def test_new_folder_is_closed_to_other_users(cache_folder: Path) -> None:
    umask = os.umask(0)
    try:
        cache.make_folder(cache_folder)
    finally:
        os.umask(umask)
    assert cache_folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777])
def test_refuses_folder_that_others_may_write(mode: int, cache_folder: Path) -> None:
    cache_folder.mkdir()
    cache_folder.chmod(mode)
    with pytest.raises(BackendError, match=rf"may be written by other users \(mode {mode:o}; chmod go-w cures it"):
        cache.make_folder(cache_folder)


@needs_root
def test_refuses_folder_of_another_user(cache_folder: Path) -> None:
    cache.make_folder(cache_folder)
    os.chown(cache_folder, STRANGER, STRANGER)
    with pytest.raises(BackendError, match=f"belongs to user id {STRANGER}, expected {os.geteuid()} or root"):
        cache.make_folder(cache_folder)


@needs_root
def test_what_root_built_serves_all_users(cache_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.make_folder(cache_folder)
    library = cache_folder / "library"
    library.write_text("")
    monkeypatch.setattr(os, "geteuid", lambda: STRANGER)
    cache.check_folder(cache_folder)
    cache.check_file(library)
    library.chmod(0o666)
    with pytest.raises(BackendError, match=r"may be written by other users \(mode 666"):
        cache.check_file(library)


@needs_root
def test_refuses_file_of_another_user(cache_folder: Path) -> None:
    cache.make_folder(cache_folder)
    library = cache_folder / "library"
    library.write_text("")
    os.chown(library, STRANGER, STRANGER)
    with pytest.raises(BackendError, match=f"library belongs to user id {STRANGER}, .* remove it, or name another"):
        cache.check_file(library)


def test_refuses_what_is_no_file_of_its_own(cache_folder: Path) -> None:
    cache.make_folder(cache_folder)
    (cache_folder / "elsewhere").write_text("")
    (cache_folder / "link").symlink_to(cache_folder / "elsewhere")
    os.mkfifo(cache_folder / "pipe")
    for name in ("link", "pipe"):
        with pytest.raises(BackendError, match=f"{name} is no file of its own"):
            cache.check_file(cache_folder / name)


def test_refuses_file_in_place_of_folder(cache_folder: Path) -> None:
    cache_folder.write_text("")
    with pytest.raises(BackendError, match=r"cannot be written .*KSHOT_EXT_CACHE") as caught:
        cache.make_folder(cache_folder)
    assert str(cache_folder) in str(caught.value)


def test_refuses_new_folder_on_read_only_disk(cache_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Tests may run as root, whom file permissions do not stop: the disk itself has to say no.
    def read_only(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "mkdir", read_only)
    with pytest.raises(BackendError, match=r"Read-only file system.*KSHOT_EXT_CACHE"):
        cache.make_folder(cache_folder)


def test_refuses_old_folder_on_read_only_disk(cache_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.make_folder(cache_folder)
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(BackendError, match=r"no permission to write there.*KSHOT_EXT_CACHE"):
        cache.make_folder(cache_folder)


def test_lock_names_its_holder_and_dies_with_it(cache_folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    cache.make_folder(cache_folder)
    command = [sys.executable, "-c", HOLD_LOCK, str(cache_folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with (
            pytest.raises(BackendError, match=f"held by process {holder.pid} on ") as caught,
            cache.locked(cache_folder, 2.5),
        ):
            pytest.fail("two processes hold the lock")
        assert str(cache_folder / "lock") in str(caught.value)
        assert f"waiting for process {holder.pid}" in capfd.readouterr().err
        holder.send_signal(signal.SIGKILL)
    begin = time.monotonic()
    with cache.locked(cache_folder, 5):
        assert time.monotonic() - begin < 1


def test_private_folder_sweeps_up_after_dead_builds(cache_folder: Path) -> None:
    cache.make_folder(cache_folder)
    stale = cache_folder / "building-dead"
    stale.mkdir()
    (stale / "half.o").write_text("")
    finished = cache_folder / "finished"
    finished.mkdir()
    with cache.private_folder(cache_folder, alone=True) as private:
        assert not stale.exists()
        assert list(private.iterdir()) == []
    assert list(cache_folder.iterdir()) == [finished]


def test_without_a_lock_builds_of_others_stay(cache_folder: Path) -> None:
    cache.make_folder(cache_folder)
    now, days_ago = cache_folder / "building-now", cache_folder / "building-days-ago"
    for folder in (now, days_ago):
        folder.mkdir()
    os.utime(days_ago, (0, 0))
    with cache.private_folder(cache_folder, alone=False):
        assert now.exists()
        assert not days_ago.exists()


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS])
def test_a_file_system_without_locks(code: int, cache_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    cache.make_folder(cache_folder)
    with cache.locked(cache_folder, 1) as alone:
        assert alone
    monkeypatch.setattr(fcntl, "flock", no_locks)
    with cache.locked(cache_folder, 1) as alone:
        assert not alone


def test_the_lock_is_one_that_network_file_systems_have(
    cache_folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """There flock locks a range of bytes, which takes a file open for writing; another's lock may be told as EACCES."""
    answers = iter([PermissionError(errno.EACCES, "held"), None])

    def byte_range_lock(descriptor: int, operation: int) -> None:
        if error := next(answers):
            raise error
        assert fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDWR
        fcntl.lockf(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", byte_range_lock)
    cache.make_folder(cache_folder)
    with cache.locked(cache_folder, 5) as alone:
        assert alone


def test_a_lock_that_fails_names_the_cure(cache_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(fcntl, "flock", broken)
    cache.make_folder(cache_folder)
    with pytest.raises(BackendError, match=r"lock cannot be had .*KSHOT_EXT_CACHE"), cache.locked(cache_folder, 1):
        pytest.fail("held a lock that is not to be had")
