"""Libraries in the cache: used again, unless they are half done, damaged, or may be another user's."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from native.small_library import answer, flip_byte_of_library

from kshot_ext._native.errors import BackendError
from kshot_ext._native.find import Found, find_library


def test_entry_holds_library_and_metadata_only(find: Callable[[], Found], cache_folder: Path) -> None:
    entry = find().library.path.parent
    assert {path.name for path in entry.iterdir()} == {"build.json", "libkshot_ext.so"}
    assert {path.name for path in cache_folder.iterdir()} == {entry.name, "lock"}


def test_an_upgrade_of_torch_needs_no_build(find: Callable[[], Found], monkeypatch: pytest.MonkeyPatch) -> None:
    built = find()
    monkeypatch.setattr(torch, "__version__", "2.99.0")
    assert find() == Found(built.library, "cached")


def test_cached_library_needs_no_writable_folder(find: Callable[[], Found], monkeypatch: pytest.MonkeyPatch) -> None:
    find()
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK and access(path, mode))
    assert find().origin == "cached"


@pytest.mark.parametrize("use", [os.fsencode("caf\xe9"), os.fsencode("\u0436\u4e2d"), b"not \xff UTF-8", b"x" * 200])
def test_cache_folders_of_any_name(
    use: bytes, source_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + use))
    for origin in ("built", "cached"):
        found = find_library(source_folder, tmp_path / "prebuilt", folder)
        assert (found.origin, answer(found)) == (origin, 42)


@pytest.mark.parametrize(
    ("name", "message"),
    [("x" * 300, "File name too long.*KSHOT_EXT_CACHE"), ("/dev/null/cache", "Not a directory.*KSHOT_EXT_CACHE")],
)
def test_cache_folders_that_cannot_be(name: str, message: str, source_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BackendError, match=message):
        find_library(source_folder, tmp_path / "prebuilt", tmp_path / name)


def remove_metadata(entry: Path) -> None:
    (entry / "build.json").unlink()


def cut_metadata(entry: Path) -> None:
    (entry / "build.json").write_text((entry / "build.json").read_text()[:20])


def empty_metadata(entry: Path) -> None:
    (entry / "build.json").write_text("[]")


def remove_library(entry: Path) -> None:
    (entry / "libkshot_ext.so").unlink()


def cut_library(entry: Path) -> None:
    os.truncate(entry / "libkshot_ext.so", 100)


DAMAGES = [remove_metadata, cut_metadata, empty_metadata, remove_library, cut_library, flip_byte_of_library]


@pytest.mark.parametrize("damage", DAMAGES)
def test_rebuilds_what_is_half_built_or_damaged(damage: Callable[[Path], None], find: Callable[[], Found]) -> None:
    damage(find().library.path.parent)
    again = find()
    assert (again.origin, answer(again)) == ("built", 42)
    assert find().origin == "cached"


def test_refuses_library_that_others_may_have_written(find: Callable[[], Found], cache_folder: Path) -> None:
    entry = find().library.path.parent
    for folder in (cache_folder, entry):
        folder.chmod(0o777)
        with pytest.raises(BackendError, match="may be written by other users"):
            find()
        folder.chmod(0o700)
    assert find().origin == "cached"


@pytest.mark.parametrize("name", ["libkshot_ext.so", "build.json"])
def test_refuses_file_that_others_may_have_written(name: str, find: Callable[[], Found]) -> None:
    file = find().library.path.with_name(name)
    file.chmod(0o666)
    with pytest.raises(BackendError, match=f"{name} may be written by other users"):
        find()
    file.chmod(0o644)
    assert find().origin == "cached"
    elsewhere = file.rename(file.parent.parent / "elsewhere")
    file.symlink_to(elsewhere)
    with pytest.raises(BackendError, match=f"{name} is no file of its own"):
        find()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")
def test_refuses_library_of_another_user(find: Callable[[], Found]) -> None:
    library = find().library.path
    os.chown(library, 54321, 54321)
    with pytest.raises(BackendError, match=r"libkshot_ext\.so belongs to user id 54321"):
        find()
