from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from kshot_ext.nas.run_folder import Checkpoint, RunFolder, RunFolderError
from kshot_ext.nas.settings import RunSettings, gather_settings


def test_settings_are_kept(tmp_path: Path) -> None:
    settings = gather_settings(RunSettings(), None, {"shots": 2, "epochs": 3, "budget": "1.5M"})
    RunFolder.create(tmp_path / "runs" / "first", settings).close()
    assert RunFolder(tmp_path / "runs" / "first").settings == settings


def test_an_existing_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(RunFolderError, match=r"exists already; choose another --out, or --resume it"):
        RunFolder.create(tmp_path, RunSettings())
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_other_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"not a run folder \(settings\.toml: No such file"):
        RunFolder(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(RunFolderError, match=r"file/run: cannot be created \(Not a directory"):
        RunFolder.create(tmp_path / "file" / "run", RunSettings())


def test_checkpoints_come_back_and_are_kept_apart(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", RunSettings())
    assert folder.load_checkpoint("search") is None
    state = {"epoch": 3, "weights": {"a": torch.arange(3.0)}, "generator": torch.Generator().get_state()}
    folder.save_checkpoint("search", Checkpoint(state, 1.5))
    folder.save_checkpoint("train", Checkpoint({}, 9.0))
    loaded = folder.load_checkpoint("search")
    assert loaded is not None
    assert loaded.seconds == 1.5
    assert loaded.state["epoch"] == 3
    assert torch.equal(loaded.state["weights"]["a"], torch.arange(3.0))


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path: Path) -> None:
    class Hostile:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return print, ("executed",)

    folder = RunFolder.create(tmp_path / "run", RunSettings())
    torch.save({"state": Hostile(), "seconds": 0.0}, tmp_path / "run" / "checkpoints" / "train.pt")
    with pytest.raises(RunFolderError, match=r"train\.pt: damaged checkpoint"):
        folder.load_checkpoint("train")


@pytest.mark.parametrize("content", [b"", b"half a check", None])
def test_a_damaged_checkpoint_is_named(tmp_path: Path, content: bytes | None) -> None:
    folder = RunFolder.create(tmp_path / "run", RunSettings())
    folder.save_checkpoint("train", Checkpoint({"weights": torch.zeros(1000)}, 0.0))
    path = tmp_path / "run" / "checkpoints" / "train.pt"
    path.write_bytes(path.read_bytes()[:2000] if content is None else content)
    with pytest.raises(RunFolderError, match=r"train\.pt: damaged checkpoint"):
        folder.load_checkpoint("train")


def test_two_processes_cannot_work_on_one_run(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", RunSettings())
    script = "import pathlib, sys; from kshot_ext.nas.run_folder import RunFolder; RunFolder(pathlib.Path(sys.argv[1]))"
    command = [sys.executable, "-c", script, str(tmp_path / "run")]
    second = subprocess.run(command, capture_output=True, text=True)
    assert "another process is working on this run" in second.stderr
    folder.close()
    assert subprocess.run(command).returncode == 0
