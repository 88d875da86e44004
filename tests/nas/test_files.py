import json
import os
import resource
from pathlib import Path

import pytest

from kshot_ext.nas.files import (
    WriteError,
    append_line,
    atomic_folder,
    atomic_path,
    check_can_write,
    read_bytes,
    read_json,
    remove_unfinished,
    write_text,
)


def test_replaces_the_old_content(tmp_path: Path) -> None:
    write_text(tmp_path / "note.txt", "old")
    write_text(tmp_path / "note.txt", "nëw")
    assert (tmp_path / "note.txt").read_text(encoding="utf-8") == "nëw"
    assert [path.name for path in tmp_path.iterdir()] == ["note.txt"]


def _write_half(path: Path) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt


def test_a_failed_write_leaves_the_old_content_and_no_litter(tmp_path: Path) -> None:
    write_text(tmp_path / "note.txt", "old")
    with pytest.raises(KeyboardInterrupt):
        _write_half(tmp_path / "note.txt")
    assert (tmp_path / "note.txt").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["note.txt"]


def test_the_temporary_path_keeps_the_name(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "figure.png") as temporary:
        assert temporary.name == "figure.png"
        temporary.touch()
        assert temporary.parent.parent == tmp_path  # the same file system


def test_others_may_read_the_file_as_they_may_read_any_new_file(tmp_path: Path) -> None:
    write_text(tmp_path / "note.txt", "")
    (tmp_path / "plain.txt").touch()
    assert (tmp_path / "note.txt").stat().st_mode == (tmp_path / "plain.txt").stat().st_mode


def test_what_writers_leave_goes_with_the_temporary_folder(tmp_path: Path) -> None:
    def write_and_leave() -> None:
        with atomic_path(tmp_path / "note.txt") as temporary:
            (temporary.parent / ".tmp123").touch()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_and_leave()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "sub" / ".unfinished-abc").mkdir(parents=True)
    (tmp_path / "sub" / ".unfinished-abc" / ".tmp123").touch()
    remove_unfinished(tmp_path)
    assert list((tmp_path / "sub").iterdir()) == []


def test_bytes_that_are_no_utf8_come_back_from_json(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9 \xc3\xa9")
    write_text(tmp_path / "names.json", json.dumps([name], ensure_ascii=False))
    assert read_json(tmp_path / "names.json") == [name]
    assert "é" in (tmp_path / "names.json").read_text(encoding="utf-8")


def test_a_line_that_does_not_fit_leaves_no_part_of_itself(tmp_path: Path) -> None:
    path = tmp_path / "log"
    append_line(path, "one")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, limits[1]))
    try:
        with pytest.raises(WriteError, match=r"log: cannot be written \(File too large\)"):
            append_line(path, "two " * 10)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_text() == "one\n"
    append_line(path, "three")
    assert path.read_text() == "one\nthree\n"


def test_a_line_is_on_disk_when_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[bytes] = []
    monkeypatch.setattr(os, "fsync", lambda handle: synced.append(Path(f"/proc/self/fd/{handle}").read_bytes()))
    append_line(tmp_path / "log", "one")
    assert synced == [b"one\n"]


@pytest.mark.parametrize("seen", [True, False])
def test_a_folder_is_made_by_one_of_several(tmp_path: Path, seen: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other comes in between: before this one looks whether there is something, or after it."""

    def make(others: int) -> None:
        with atomic_folder(tmp_path / "run") as folder:
            (folder / "file").touch()
            if others:
                make(others - 1)
                if not seen:
                    monkeypatch.setattr(os.path, "lexists", lambda path: False)

    with pytest.raises(FileExistsError):
        make(1)
    assert [path.name for path in tmp_path.rglob("*")] == ["run", "file"]


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: path.symlink_to("/dev/zero")])
def test_only_files_are_read(tmp_path: Path, make) -> None:
    make(tmp_path / "file")
    with pytest.raises(OSError, match="expected a file, got a"):
        read_bytes(tmp_path / "file")


def test_what_would_keep_a_file_from_being_written_is_found_before(tmp_path: Path) -> None:
    check_can_write(tmp_path, ["note.txt"])
    (tmp_path / "note.txt").mkdir()
    for folder, name in ((tmp_path, "note.txt"), (tmp_path, "x" * 300), (tmp_path / "none", "note.txt")):
        with pytest.raises(WriteError, match="cannot be written"):
            check_can_write(folder, [name])
    assert [path.name for path in tmp_path.iterdir()] == ["note.txt"]
