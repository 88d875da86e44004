"""The cache folder: where it is, who may write to it, and the lock."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kshot_ext._native import cache
from kshot_ext._native.errors import BackendError

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
        ({"KSHOT_EXT_CACHE": "", "XDG_CACHE_HOME": "", "HOME": "/h"}, "/h/.cache/kshot_ext"),
    ],
)
def test_default_folder(variables: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("KSHOT_EXT_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert cache.default_folder() == Path(expected)


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
    with pytest.raises(BackendError, match=rf"may be written by other users \(mode {mode:o}, expected 700"):
        cache.make_folder(cache_folder)


def test_refuses_folder_of_another_user(cache_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    owner = os.geteuid()
    cache.make_folder(cache_folder)
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    with pytest.raises(BackendError, match=f"belongs to user id {owner}, expected {owner + 1}"):
        cache.make_folder(cache_folder)


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
    with cache.private_folder(cache_folder) as private:
        assert not stale.exists()
        assert list(private.iterdir()) == []
    assert list(cache_folder.iterdir()) == [finished]
