from pathlib import Path

import pytest

from kshot_ext.nas.files import atomic_path, write_text


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
