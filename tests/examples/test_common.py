"""What the examples share: where a run may begin."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import pytest
import typer

from kshot_ext.nas.extras import MissingExtraError
from parts.common import new_folder


def test_a_folder_that_cannot_be_made_is_an_option_to_be_changed(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(typer.BadParameter, match=r"file/run cannot be made or written to: Not a directory") as found:
        new_folder(tmp_path / "file" / "run")
    assert found.value.param_hint == "--out"


def test_a_folder_that_cannot_be_written_to_is_an_option_to_be_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**options: object) -> None:  # to root, no folder of a usual disk is closed
        assert options["dir"] == tmp_path
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    with pytest.raises(typer.BadParameter, match="cannot be made or written to: Permission denied"):
        new_folder(tmp_path)


def test_without_matplotlib_no_run_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The picture comes last: what was computed until then would be lost."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)

    class Without:
        """Finds no matplotlib."""

        @staticmethod
        def find_spec(name: str, path: object = None, target: object = None) -> None:
            if name.partition(".")[0] == "matplotlib":
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(sys, "meta_path", [Without, *sys.meta_path])
    with pytest.raises(MissingExtraError, match=r"matplotlib is needed .* pip install 'kshot_ext\[examples\]'"):
        new_folder(tmp_path / "run")
    assert not (tmp_path / "run").exists()
