"""A miniature of the main job, from images to report, begun, stopped and resumed."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Collection, Iterator
from itertools import count, product
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from kshot_ext.nas.commands.analyse import analyse_command
from kshot_ext.nas.commands.frame import EXIT_DONE, EXIT_ERROR, EXIT_INTERRUPTED
from kshot_ext.nas.commands.search import search_command
from kshot_ext.nas.methods.parts import path_method
from kshot_ext.nas.runs.run_folder import RunRecord
from kshot_ext.nas.spaces import create_space
from kshot_ext.nas.training import epoch_trainer
from kshot_ext.nas.training.loop import TrainingLoop

SETTINGS = """
rivals = 2
retrain_seeds = 2
shots = 2
channels = 4
max_images = 300
epochs = 2
retrain_epochs = 2
[method]
simplex_every = 1
[training]
warmup_epochs = 1
batch_size = 32
[codes]
start = "equal"
[retrain]
batch_size = 32
[search]
population = 4
generations = 2
"""
STEPS_OF_ALL_STAGES = 12
STOPPED_AT = (
    1,
    3,
    6,
    9,
    16,
)  # first before anything was saved, then in each kind of stage, last at the last step


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Networks this small only lose by waiting for other threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "miniature.toml"
    path.write_text(SETTINGS)
    return path


@pytest.fixture(scope="module")
def finished(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a run that was never stopped, with a table of results at hand."""
    out, table = tmp_path_factory.mktemp("runs") / "finished", config.with_name("table.json")
    keys = ["".join(map(str, choices)) for choices in product(range(3), repeat=8)]
    table.write_text(json.dumps({key: index for index, key in enumerate(keys)}))
    assert search_command({"out": str(out), "truth": str(table)}, config, None) == EXIT_DONE
    return out


def _results(folder: Path) -> dict[str, object]:
    results = json.loads((folder / "results.json").read_text())
    return {name: value for name, value in results.items() if name not in ("run", "seconds")}


def test_the_run_folder_holds_everything(finished: Path) -> None:
    expected = {
        "architecture.json",
        "checkpoints",
        "log.txt",
        "metrics.jsonl",
        "model.pt",
        "model.safetensors",
        "report.html",
        "results.json",
        "run.json",
        "settings.toml",
        "tensorboard",
    }
    assert {path.name for path in finished.iterdir()} == expected
    records = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    stages = ["supernet", "search", "retrain-winner", "retrain-winner-seed-2", "retrain-random", "retrain-random-2"]
    assert [(r["stage"], r["step"]) for r in records] == [(stage, step) for stage in stages for step in (1, 2)]


def test_a_one_shot_run_is_analysed_as_one(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    assert analyse_command(run) == EXIT_DONE
    assert "this is a one-shot run: its 2 copies act as one" in capsys.readouterr().out
    assert "After 2 of 2 epochs this is a one-shot run" in (run / "analysis" / "analysis.html").read_text()
    found = json.loads((run / "analysis" / "analysis.json").read_text())["codes"]
    assert found == json.loads((run / "results.json").read_text())["codes"]


def test_the_networks_keep_to_the_budget(finished: Path) -> None:
    space = create_space("nas-bench-macro", image_shape=(1, 8, 8), num_classes=10, channels=4)
    results = _results(finished)
    assert results["max_macs"] == int(0.6 * space.count_macs(space.largest()))
    assert results["winner"]["macs"] <= results["max_macs"]
    compared = [results["winner"], *results["rivals"]]
    assert [network["title"] for network in compared] == ["winner", "random", "random-2"]
    assert len({network["key"] for network in compared}) == 3


def test_the_model_loads_without_this_package(finished: Path) -> None:
    card = json.loads((finished / "architecture.json").read_text())
    script = (
        "import sys, torch; sys.modules['kshot_ext'] = None; "
        "network = torch.load(sys.argv[1], weights_only=False).eval(); "
        "print(sum(p.numel() for p in network.parameters()), *network(torch.zeros(2, 1, 8, 8)).shape)"
    )
    command = [sys.executable, "-I", "-c", script, str(finished / "model.pt")]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert output.split() == [str(card["parameters"]), "2", "10"]


def test_the_weights_are_there_without_a_pickle(finished: Path) -> None:
    model = torch.load(finished / "model.pt", weights_only=False)
    weights = load_file(finished / "model.safetensors")
    assert weights.keys() == model.state_dict().keys()
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())


def _check_told_to_be_one_shot(console: str, run: Path) -> None:
    """One epoch of simplex steps does not part codes that start equal; that is said by console, page and results."""
    codes = json.loads((run / "results.json").read_text())["codes"]
    assert codes["verdict"] == "one-shot"
    assert 0 < codes["distance"] < 0.1
    assert sum(codes["entry_shares"]) == pytest.approx(1)
    assert codes["least_share"] == min(codes["entry_shares"])
    assert 1 < codes["effective_rank"] < 2
    begun, trained = console.split("train supernet 1/2")
    assert "before training codes are alike: 0.000 apart on average, expected at least 0.1; to part them" in begun
    trained, end = trained.split("search 1/2")
    assert "supernet: this is a one-shot run, as codes are alike" in trained
    assert "this is a one-shot run: its 2 copies act as one. Codes are alike" in end
    assert f"{codes['distance']:.3f}" in end
    assert '<p class="warning" role="alert">This is a one-shot run' in (run / "report.html").read_text()


def test_the_settings_of_a_run_begin_an_equal_run(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    again = tmp_path / "again"
    assert search_command({"out": str(again)}, finished / "settings.toml", None) == EXIT_DONE
    _check_told_to_be_one_shot(capsys.readouterr().out, again)
    assert (again / "metrics.jsonl").read_text() == (finished / "metrics.jsonl").read_text()
    assert _results(again) == _results(finished)


def test_a_run_stopped_again_and_again_goes_on_as_if_never_stopped(
    config: Path,
    finished: Path,
    tmp_path: Path,
    stop_before_saves: Callable[[Collection[int]], list[int]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Each time the step that was not saved is done again."""
    out = tmp_path / "my run"
    saves = stop_before_saves(STOPPED_AT)
    assert search_command({"out": str(out)}, config, None) == EXIT_INTERRUPTED
    assert f"kshot-ext search --resume '{out}'" in capsys.readouterr().err
    for _ in STOPPED_AT[1:]:
        assert search_command({}, None, out) == EXIT_INTERRUPTED
    assert search_command({}, None, out) == EXIT_DONE
    assert len(saves) == STEPS_OF_ALL_STAGES + len(STOPPED_AT)
    assert (out / "metrics.jsonl").read_text() == (finished / "metrics.jsonl").read_text()
    assert _results(out) == _results(finished)
    model, expected = (torch.load(run / "model.pt", weights_only=False) for run in (out, finished))
    assert all(map(torch.equal, model.state_dict().values(), expected.state_dict().values()))


def test_a_run_that_diverges_ends_with_an_error_and_keeps_its_last_good_state(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """NaN from the second step of the second epoch on."""
    calls, right = count(1), path_method.path_loss

    def diverging(*arguments: object) -> tuple[torch.Tensor, torch.Tensor]:
        loss, logits = right(*arguments)
        return (loss * math.nan if next(calls) > 5 else loss), logits

    monkeypatch.setattr(path_method, "path_loss", diverging)
    out = tmp_path / "run"
    assert search_command({"out": str(out)}, config, None) == EXIT_ERROR
    error = capsys.readouterr().err
    where = r"error: train supernet: epoch 2, step 2 of 4: the loss of path [012]{8} under the code \[.*\] is nan"
    assert re.search(where, error)
    assert f"{out} keeps its state after epoch 1 of 2; a run goes on with the settings it began with" in error
    (line,) = (out / "metrics.jsonl").read_text().splitlines()
    assert json.loads(line)["step"] == 1
    checkpoint = RunRecord(out).load_checkpoint("supernet")
    assert checkpoint.state["epoch"] == 1
    assert all(value.isfinite().all() for value in checkpoint.state["supernet"].values())
    assert not (out / "results.json").exists()


def test_no_winner_is_named_where_no_network_gives_numbers(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As after a last step that spoils every weight, in a run of an older version that did not look."""
    monkeypatch.setattr(epoch_trainer, "check_weights", lambda _: None)
    train_epoch = TrainingLoop.train_epoch

    def spoiling(trainer: TrainingLoop, *arguments: object) -> object:
        report = train_epoch(trainer, *arguments)
        if trainer.finished:
            for parameter in trainer.method.supernet.parameters():
                parameter.data.fill_(math.nan)
        return report

    monkeypatch.setattr(TrainingLoop, "train_epoch", spoiling)
    assert search_command({"out": str(tmp_path / "run")}, config, None) == EXIT_ERROR
    error = capsys.readouterr().err
    assert "error: search: all 4 networks of the first generation give NaN or infinity for images" in error
    assert not (tmp_path / "run" / "results.json").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shots": 0}, "command line: shots: expected 1 or more, got 0"),
        ({"budget": "10"}, "limits: no architecture of space nas-bench-macro has at most 10"),
        ({"max_parameters": 10}, "limits: found no architecture"),
        ({"max_latency": 1e-9}, "limits: found no architecture"),
        ({"data": "missing.zip"}, "missing.zip: no such file or folder"),
        ({"max_images": 20}, "digits: class '0': 2 images used, too few"),
        ({"max_images": 50}, "batch_size: expected at most"),
        ({"device": "cuda"}, "device: expected one of this machine, got 'cuda'"),
        ({"truth": "none.json"}, "none.json: cannot be read"),
        # Before the images are read, or missed.
        ({"epochs": 1, "data": "missing.zip"}, "training.warmup_epochs: expected fewer than the 1 epochs"),
    ],
)
def test_an_error_names_the_value_and_writes_nothing(
    config: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: dict[str, object],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert search_command(options, config, None) == EXIT_ERROR
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_image_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("cat", "dog"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for number in range(8):
            Image.new("L", (8, 8), number).save(tmp_path / "pets" / name / f"{number}.png")
    (tmp_path / "pets" / "dog" / "3.png").write_bytes(b"not a picture")
    assert search_command({"data": "pets"}, None, None) == EXIT_ERROR
    assert "pets/dog/3.png: damaged image" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["pets"]


def test_one_class_is_no_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pets" / "cat").mkdir(parents=True)
    for number in range(8):
        Image.new("L", (8, 8), number).save(tmp_path / "pets" / "cat" / f"{number}.png")
    assert search_command({"data": "pets"}, None, None) == EXIT_ERROR
    assert "at least 2 classes, got only 'cat'" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["pets"]


def test_a_table_adds_the_rank_correlation(finished: Path) -> None:
    text = re.sub(r"<[^>]*>", " ", (finished / "report.html").read_text())
    assert re.search(r"Kendall&#39;s tau\s+-?0\.\d{3}", text)
    assert re.search(r"Pareto front\s+architecture", text)


def test_a_table_of_another_space_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("table.json").write_text('{"0120": 90.5}')
    assert search_command({"truth": "table.json"}, None, None) == EXIT_ERROR
    assert (
        "table.json: key '0120': architecture: space nas-bench-macro has 8 layers, got 4 operations"
        in capsys.readouterr().err
    )
    assert [path.name for path in tmp_path.iterdir()] == ["table.json"]


def test_a_run_is_not_resumed_with_other_settings(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()}
    assert search_command({"shots": 3}, None, finished) == EXIT_ERROR
    assert "shots is 2 in the run, 3 asked" in capsys.readouterr().err
    assert search_command({"out": str(finished)}, None, None) == EXIT_ERROR
    assert "exists already" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()} == before


SPACE = """
from torch import nn
from kshot_ext.nas.spaces.staged_space import Stage, StagedSpace

class Layers(StagedSpace):
    def __init__(self, *, channels, **options):
        options = {name: options[name] for name in ("image_shape", "num_classes", "widths")}
        stages = [Stage(channels, 2, 1)]
        super().__init__("layers", operations=self.OPERATIONS, stem_channels=channels, stages=stages, **options)

    def stem(self, shape):
        return nn.Conv2d(1, 4, 1)

    def candidate(self, operation, shape):
        return nn.Conv2d(4, 4, 3, padding=1) if operation == "convolution" else nn.Identity()

    def head(self, shape):
        return nn.Sequential(nn.Flatten(), nn.Linear(256, 10))

class One(Layers):
    OPERATIONS = ("convolution",)

class Uneven(Layers):
    OPERATIONS = ("convolution", "skip")
"""


@pytest.fixture
def layers(tmp_path: Path) -> dict[str, object]:
    """Options of a search among small networks by a method that needs no population."""
    (tmp_path / "layers.py").write_text(SPACE)
    (tmp_path / "settings.toml").write_text(SETTINGS.replace("simplex_every = 1", ""))
    return {"method": "darts-pt", "shots": 1, "epochs": 1, "retrain_epochs": 1, "out": str(tmp_path / "run")}


def test_a_space_of_one_network_is_refused_before_training(
    tmp_path: Path, layers: dict[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    options = layers | {"space": f"{tmp_path}/layers.py:One", "budget": "100%"}
    assert search_command(options, tmp_path / "settings.toml", None) == EXIT_ERROR
    assert "method darts-pt: expected a space of two or more architectures, got layers" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_rivals_may_cost_far_more_than_the_winner_if_all_others_do(
    tmp_path: Path, layers: dict[str, object], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two layers: without convolutions there are 2,816 multiply-accumulates, with each 9,216 more."""
    options = layers | {"space": f"{tmp_path}/layers.py:Uneven", "budget": 3000, "rivals": 5}
    assert search_command(options, tmp_path / "settings.toml", None) == EXIT_DONE
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["winner"]["macs"] == 2816
    assert [rival["macs"] - 2816 for rival in results["rivals"]] == [9216, 9216, 2 * 9216]  # the nearest ones first
    assert "rivals: expected 5, but the space has only 3 others" in capsys.readouterr().out
