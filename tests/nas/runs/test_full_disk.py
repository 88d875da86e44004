"""Whatever write of a run fails, and for whatever reason: one line says so, nothing is damaged, and the run goes on."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from kshot_ext.nas import files
from kshot_ext.nas.commands.frame import EXIT_DONE, EXIT_ERROR
from kshot_ext.nas.commands.search import search_command
from kshot_ext.nas.runs.run_folder import RunFolder
from kshot_ext.nas.runs.run_log import LOG
from kshot_ext.nas.runs.state_file import load_state, save_state

SETTINGS = """
rivals = 1
retrain_seeds = 1
shots = 2
channels = 2
max_images = 100
epochs = 2
retrain_epochs = 1
[training]
batch_size = 16
warmup_epochs = 1
[retrain]
batch_size = 16
[search]
population = 2
generations = 1
"""
ERRORS = (errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS)
SAME = ("metrics.jsonl", "settings.toml", "architecture.json", "model.safetensors")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "config.toml"
    path.write_text(SETTINGS)
    return path


@contextmanager
def _failing_fsync(number: int, below: Path, failed: Collection[str]) -> Iterator[list[str]]:
    """The first file below a folder whose like did not fail yet is not brought to disk; gives its name."""
    fsync, names = os.fsync, []

    def fail(descriptor: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        if path.is_file() and below in path.parents and path.name not in failed and not names:
            names.append(path.name)
            raise OSError(number, os.strerror(number))
        fsync(descriptor)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files.os, "fsync", fail)
        yield names


def _content(run: Path) -> dict[str, object]:
    results = json.loads((run / "results.json").read_text())
    texts = {name: (run / name).read_bytes() for name in SAME}
    return {"results": results | {"seconds": None, "run": None}, **texts}


def test_a_run_that_cannot_save_time_and_again_ends_as_if_it_always_could(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every file's first write fails once: what was written before is not failed again."""
    run = tmp_path / "run"
    assert search_command({"out": str(tmp_path / "whole")}, config, None) == EXIT_DONE
    failed: list[str] = []
    for attempt in range(30):
        number = ERRORS[attempt % len(ERRORS)]
        capsys.readouterr()
        with _failing_fsync(number, tmp_path, failed) as names:
            begun = run.exists()
            options = {} if begun else {"out": str(run)}
            status = search_command(options, None if begun else config, run if begun else None)
        if status == EXIT_DONE:
            break
        assert status == EXIT_ERROR
        failed += names
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"error: {run}")
        assert os.strerror(number) in line
        assert line.endswith(f"go on with: kshot-ext search --resume {run}" if run.exists() else "nothing was written")
        assert list(tmp_path.rglob(".unfinished-*")) == []
    written = {path.name for path in run.rglob("*") if path.is_file() and "tfevents" not in path.name}
    assert written - {LOG} == set(failed)  # the log is not waited for
    assert _content(run) == _content(tmp_path / "whole")


def test_a_file_that_outgrows_what_the_system_allows_is_named(tmp_path: Path) -> None:
    """A real refusal, which safetensors reports in words of its own."""
    path = tmp_path / "state.safetensors"
    save_state(path, {"weight": torch.zeros(10)})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(files.WriteError) as caught, files.atomic_path(path) as temporary:
            save_state(temporary, {"weight": torch.zeros(10_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.errno == errno.EFBIG
    assert str(caught.value) == f"{path}: cannot be written ({os.strerror(errno.EFBIG)})"
    assert load_state(path)["weight"].numel() == 10
    assert [file.name for file in tmp_path.iterdir()] == ["state.safetensors"]


def test_a_run_whose_folder_is_deleted_meanwhile_says_so(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    save = RunFolder.save_checkpoint

    def delete_and_save(folder: RunFolder, *arguments: object) -> None:
        shutil.rmtree(folder.path)
        save(folder, *arguments)

    monkeypatch.setattr(RunFolder, "save_checkpoint", delete_and_save)
    assert search_command({"out": str(tmp_path / "run")}, config, None) == EXIT_ERROR
    (line,) = capsys.readouterr().err.splitlines()
    assert "supernet.safetensors: cannot be written (No such file or directory)" in line
    assert line.endswith(f"there is no run in {tmp_path / 'run'} any more; begin it anew")
    assert list(tmp_path.iterdir()) == []
