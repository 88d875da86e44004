"""Run folders damaged in every way that a disk, a crash or a user may: each ends in one line that names the file and a
cure, or in what an undamaged folder gives, never in a traceback, a hang, or other results."""

from __future__ import annotations

import functools
import json
import os
import shutil
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from kshot_ext.nas.api import search
from kshot_ext.nas.commands.analyse import analyse_command
from kshot_ext.nas.commands.compare import compare_command
from kshot_ext.nas.commands.frame import EXIT_DONE, EXIT_ERROR
from kshot_ext.nas.commands.search import search_command
from kshot_ext.nas.datasets.splits import DataSplits
from kshot_ext.nas.progress import ConsoleProgress
from kshot_ext.nas.runs.metrics import MetricsLog
from kshot_ext.nas.runs.run_folder import RunFolder, RunFolderError, RunRecord
from kshot_ext.nas.runs.search_job import SearchJob
from kshot_ext.nas.runs.settings import RunSettings
from kshot_ext.nas.runs.stages import SupernetStage, run_stage
from kshot_ext.nas.runs.state_file import load_state, save_state
from kshot_ext.nas.runs.supernet_job import load_data

SETTINGS = """
rivals = 1
retrain_seeds = 1
shots = 2
channels = 2
max_images = 100
epochs = 2
retrain_epochs = 1
[method]
simplex_every = 1
paths_per_simplex_step = 1
[training]
batch_size = 16
warmup_epochs = 1
[retrain]
batch_size = 16
[search]
population = 2
generations = 1
"""
CARD, TABLE, METRICS, RESULTS = "run.json", "settings.toml", "metrics.jsonl", "results.json"
SUPERNET, SEARCH = "checkpoints/supernet.safetensors", "checkpoints/search.safetensors"
SECONDS = 30


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Two finished runs that differ in nothing but their seeds, which draw nothing from now on."""
    folder, progress = tmp_path_factory.mktemp("runs"), ConsoleProgress(Console(quiet=True))
    (folder / "config.toml").write_text(SETTINGS)
    with pytest.MonkeyPatch.context() as patch:

        @functools.cache
        def loaded(seed: int) -> tuple[str, DataSplits]:
            return load_data(RunSettings(seed=seed, max_images=100), progress)

        patch.setattr(search, "load_data", lambda settings, *_, **__: loaded(settings.seed))
        for name, seed in (("run", 0), ("other", 1)):
            options = {"out": str(folder / name), "seed": seed}
            assert search_command(options, folder / "config.toml", None) == EXIT_DONE
        yield folder


@pytest.fixture
def run(runs: Path, tmp_path: Path) -> Path:
    """A copy of the first run, to be damaged."""
    return Path(shutil.copytree(runs / "run", tmp_path / "run"))


@pytest.fixture(autouse=True)
def _no_hang() -> Iterator[None]:
    """What waits for a pipe fails instead."""

    def fail(*_: object) -> None:
        raise AssertionError(f"no end after {SECONDS} s")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def _bind(path: Path) -> None:
    before = Path.cwd()
    os.chdir(path.parent)  # a socket's address is short
    try:
        socket.socket(socket.AF_UNIX).bind(path.name)
    finally:
        os.chdir(before)


def _sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(2**40)


CONTENTS: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "half": lambda content: content[: len(content) // 2],
    "a byte turned": lambda content: content[: len(content) // 2 - 1] + b"\xff" + content[len(content) // 2 :],
    "garbage": lambda content: bytes(range(256)),
    "deep": lambda content: b"a = " + b"[" * 100_000 if content.startswith(b"shots") else b"[" * 100_000,
}
KINDS: dict[str, Callable[[Path], object]] = {
    "folder": Path.mkdir,
    "pipe": os.mkfifo,
    "socket": _bind,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "link to nowhere": lambda path: path.symlink_to("nowhere"),
    "link to itself": lambda path: path.symlink_to(path.name),
    "a terabyte of nothing": _sparse,
}


def _damage(run: Path, runs: Path, file: str, kind: str) -> None:
    path = run / file
    content = path.read_bytes()
    path.unlink()
    if kind in CONTENTS:
        path.write_bytes(CONTENTS[kind](content))
    elif kind in KINDS:
        KINDS[kind](path)
    elif kind == "of another run":
        shutil.copy(runs / "other" / file, path)


def _results(run: Path) -> dict[str, object]:
    results = json.loads((run / RESULTS).read_text())
    same = (METRICS, "architecture.json", "model.safetensors", TABLE)
    return {"results": results | {"seconds": None}, **{name: (run / name).read_bytes() for name in same}}


def _error(captured: pytest.CaptureFixture[str]) -> str:
    """The one line of an error."""
    lines = captured.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")
    return lines[0]


OTHERS = ("of another run",)


@pytest.mark.parametrize("kind", [*CONTENTS, *KINDS, *OTHERS, "missing"])
@pytest.mark.parametrize("file", [CARD, TABLE])
def test_without_its_card_or_settings_no_command_takes_a_folder(
    run: Path, runs: Path, file: str, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    _damage(run, runs, file, kind)
    assert search_command({}, None, run) == EXIT_ERROR
    if (file, kind) == (CARD, "of another run"):
        assert "settings.toml: its settings were changed since the run began" in _error(capsys)
        return
    assert file in _error(capsys)
    assert analyse_command(run) == EXIT_ERROR
    assert file in _error(capsys)
    assert compare_command(runs / "run", run, run / "page.html") == EXIT_ERROR
    assert file in _error(capsys)
    assert not (run / "page.html").exists()
    assert not (run / "analysis").exists()


@contextmanager
def _refused(run: Path, file: str) -> Iterator[None]:
    """A checkpoint is refused in one line that names it and says what to do."""
    with pytest.raises(RunFolderError) as caught:
        yield
    assert f"{run / file}" in str(caught.value)
    assert "delete" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", [*CONTENTS, *KINDS, *OTHERS])
@pytest.mark.parametrize("file", [SUPERNET, SEARCH])
def test_a_damaged_checkpoint_is_named(run: Path, runs: Path, file: str, kind: str) -> None:
    _damage(run, runs, file, kind)
    with _refused(run, file):
        RunRecord(run).load_checkpoint(Path(file).stem)


@pytest.mark.parametrize("kind", ["half", "pipe", "of another run"])
def test_with_a_damaged_checkpoint_commands_end_and_write_nothing(
    run: Path, runs: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = _results(run)
    _damage(run, runs, SUPERNET, kind)
    for command in (lambda: search_command({}, None, run), lambda: analyse_command(run)):
        assert command() == EXIT_ERROR
        assert f"{run / SUPERNET}" in _error(capsys)
    assert _results(run) == before
    assert not (run / "analysis").exists()


def test_a_stage_without_its_checkpoint_begins_anew(run: Path, runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / SUPERNET).unlink()
    assert search_command({}, None, run) == EXIT_DONE
    assert f"{SUPERNET}: the checkpoint is gone; this stage begins anew" in capsys.readouterr().err
    before, after = _results(runs / "run"), _results(run)
    assert sorted(before.pop(METRICS).splitlines()) == sorted(after.pop(METRICS).splitlines())
    assert after == before | {"results": after["results"]}


@pytest.mark.parametrize("kind", ["empty", "half", "a byte turned", "deep", *OTHERS])
def test_numbers_over_time_come_back_from_checkpoints(
    run: Path, runs: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = _results(run)
    _damage(run, runs, METRICS, kind)
    assert compare_command(runs / "run", run, run / "page.html") == EXIT_DONE
    capsys.readouterr()
    assert search_command({}, None, run) == EXIT_DONE
    assert METRICS in capsys.readouterr().err
    assert _results(run) == expected


def test_a_damaged_line_is_left_out_and_a_repeated_one_is_not_kept(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = _results(run)
    lines = (run / METRICS).read_bytes().splitlines(keepends=True)
    lines[1:2] = [lines[0], b'{"stage": "supernet", "step": "\xff"}\n', b'{"stage": 3, "step": 1}\n']
    (run / METRICS).write_bytes(b"".join(lines) + b'{"stage": "retrain')
    assert search_command({}, None, run) == EXIT_DONE
    errors = capsys.readouterr().err
    assert "line 3, 4 cannot be read, and the last line was cut off" in errors
    assert _results(run) == expected


@pytest.mark.parametrize("kind", KINDS)
def test_strange_files_of_numbers_and_results_are_named(
    run: Path, runs: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for file in (RESULTS, METRICS):
        _damage(run, runs, file, kind)
        assert compare_command(runs / "run", run, run / "page.html") == EXIT_ERROR
        assert file in _error(capsys)
        (run / file).rmdir() if kind == "folder" else (run / file).unlink()
    assert not (run / "page.html").exists()


@pytest.mark.parametrize("kind", ["half", "deep", *OTHERS])
def test_damaged_results_are_not_compared_and_made_again(
    run: Path, runs: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = _results(run)
    _damage(run, runs, RESULTS, kind)
    assert compare_command(runs / "run", run, run / "page.html") == EXIT_ERROR
    assert f"--resume {run}" in _error(capsys)
    assert search_command({}, None, run) == EXIT_DONE
    assert _results(run) == expected


@pytest.mark.parametrize(
    "content", ['{"winner": {"test_accuracy": "0.5"}}', "[[]]", '{"runs": []}', "3", '{"runs": 1}']
)
def test_results_of_other_types_are_not_compared(
    run: Path, runs: Path, content: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / RESULTS).write_text(content)
    assert compare_command(runs / "run", run, run / "page.html") == EXIT_ERROR
    assert RESULTS in _error(capsys)


@pytest.mark.parametrize("file", ["checkpoints", "tensorboard", "report.html", "model.pt", ".lock"])
def test_files_and_folders_that_took_each_others_places_are_named(
    run: Path, file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run / file
    was_folder = path.is_dir()
    if was_folder:
        path.rename(run / "away")
        path.touch()
    else:
        path.unlink(missing_ok=True)
        path.mkdir()
    assert search_command({}, None, run) == EXIT_ERROR
    assert f"{path}: " in _error(capsys)


CARDS = [
    {"run": 3}, {"command": "train"}, {"command": ["search"]}, {"data_name": None}, {"image_shape": [1, 8]},
    {"image_shape": "188"}, {"image_shape": [1, 8, -8]}, {"image_shape": [1, 8, float("nan")]},
    {"image_shape": [1, 10**30, 8]}, {"num_classes": 10**12}, {"num_classes": True}, {"num_classes": 9.5},
    {"inputs": []}, {"inputs": {}}, {"inputs": {"data": 3}}, {"settings": None}, {"version": 2}, {"num_classes": ...},
]  # fmt: skip


@pytest.mark.parametrize("changes", CARDS, ids=str)
def test_a_card_of_other_types_is_refused(run: Path, changes: dict, capsys: pytest.CaptureFixture[str]) -> None:
    card = json.loads((run / CARD).read_text()) | changes
    (run / CARD).write_text(json.dumps({name: value for name, value in card.items() if value is not ...}))
    assert search_command({}, None, run) == EXIT_ERROR
    assert f"{run / CARD}: " in _error(capsys)


@pytest.mark.parametrize("changes", [{"num_classes": 11}, {"image_shape": [1, 16, 16]}, {"run": "0" * 32}], ids=str)
def test_a_changed_card_does_not_fit_the_checkpoints(run: Path, changes: dict) -> None:
    card = json.loads((run / CARD).read_text())
    (run / CARD).write_text(json.dumps(card | changes))
    with _refused(run, SUPERNET):
        RunRecord(run).load_checkpoint("supernet")


@pytest.mark.parametrize("change", ["epochs = 2", "seed = 0"])
def test_changed_settings_are_noticed(run: Path, change: str, capsys: pytest.CaptureFixture[str]) -> None:
    for path, value in ((run / TABLE, 7), (run / TABLE, float("nan")), (run / TABLE, 10**400)):
        text = path.read_text()
        path.write_text(text.replace(change, f"{change.split()[0]} = {value}"))
        for command in (lambda: search_command({}, None, run), lambda: analyse_command(run)):
            assert command() == EXIT_ERROR
            assert TABLE in _error(capsys)
        path.write_text(text)


def test_marks_and_line_ends_of_other_systems_do_no_harm(run: Path) -> None:
    expected = _results(run)
    for file in (CARD, TABLE, METRICS, RESULTS):
        path = run / file
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert search_command({}, None, run) == EXIT_DONE
    (run / TABLE).write_bytes((run / TABLE).read_bytes().removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n"))
    assert _results(run) == expected


def _rewrite(path: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    """Change the tensors of a checkpoint, and leave all else."""
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata=metadata)


WEIGHT = "state.supernet.head.3.weight"
TENSORS: dict[str, Callable[[dict[str, torch.Tensor]], object]] = {
    "shape": lambda tensors: tensors.update({WEIGHT: tensors[WEIGHT].flatten()}),
    "dtype": lambda tensors: tensors.update({WEIGHT: tensors[WEIGHT].double()}),
    "NaN": lambda tensors: tensors.update({WEIGHT: tensors[WEIGHT] * float("nan")}),
    "one bit": lambda tensors: tensors[WEIGHT].view(torch.int32).bitwise_xor_(1),
    "missing": lambda tensors: tensors.pop(WEIGHT),
    "extra": lambda tensors: tensors.update(more=torch.zeros(1)),
}  # fmt: skip


@pytest.mark.parametrize("kind", TENSORS)
def test_tensors_that_were_not_written_are_noticed(run: Path, kind: str) -> None:
    assert WEIGHT in load_file(run / SUPERNET)
    RunRecord(run).load_checkpoint("supernet")
    _rewrite(run / SUPERNET, TENSORS[kind])
    with _refused(run, SUPERNET):
        RunRecord(run).load_checkpoint("supernet")


STATES: dict[str, Callable[[dict], object]] = {
    "no state": lambda fields: fields.pop("state"),
    "a state of another type": lambda fields: fields.update(state=[1]),
    "no epoch": lambda fields: fields["state"].pop("epoch"),
    "an epoch of another type": lambda fields: fields["state"].update(epoch="two"),
    "no weights": lambda fields: fields["state"].pop("supernet"),
    "another optimiser": lambda fields: fields["state"].update(optimizer={}),
    "no seconds": lambda fields: fields.pop("seconds"),
    "endless seconds": lambda fields: fields.update(seconds=float("inf")),
    "records of another type": lambda fields: fields.update(records=[[]]),
    "another field": lambda fields: fields.update(version=2),
    "another stage": lambda fields: fields.update(stage="search"),
}


@pytest.fixture(scope="module")
def job(runs: Path) -> SearchJob:
    """What the runs do."""
    settings = RunRecord(runs / "run").settings
    return SearchJob(settings, search.load_data(settings, None)[1])


@pytest.mark.parametrize("kind", STATES)
def test_whole_checkpoints_of_something_else_are_refused(run: Path, job: SearchJob, kind: str) -> None:
    fields = load_state(run / SUPERNET)
    STATES[kind](fields)
    save_state(run / SUPERNET, fields)
    with closing(RunFolder(run, "search")) as folder, _refused(run, SUPERNET):
        run_stage(SupernetStage(job.loop), folder, MetricsLog(run / METRICS, run / "tensorboard"), None)


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read everything")
@pytest.mark.parametrize("file", [CARD, TABLE, METRICS, SUPERNET])
def test_unreadable_files_are_named(run: Path, file: str, capsys: pytest.CaptureFixture[str]) -> None:
    (run / file).chmod(0)
    assert search_command({}, None, run) == EXIT_ERROR
    assert file in _error(capsys)
