"""`kshot-ext rank` in miniature: begun, stopped, resumed, refused."""

from __future__ import annotations

import json
import pickle
import re
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path

import pytest
import torch

from kshot_ext.nas.api import session
from kshot_ext.nas.commands.analyse import analyse_command
from kshot_ext.nas.commands.frame import EXIT_DONE, EXIT_ERROR, EXIT_INTERRUPTED
from kshot_ext.nas.commands.rank import rank_command
from kshot_ext.nas.methods import METHODS, MethodSettings, allow_own_method
from kshot_ext.nas.ranking import ranking
from kshot_ext.nas.ranking.rank_correlation import kendall_tau, rank_correlation
from kshot_ext.nas.reporting import rank_outputs
from kshot_ext.nas.runs.run_folder import RunFolderError, RunRecord
from kshot_ext.nas.runs.state_file import load_state
from kshot_ext.nas.runs.warm_up import load_warm_up
from kshot_ext.nas.training.loop import TrainingLoop

SETTINGS = """
shots = 2
channels = 4
max_images = 200
epochs = 3
architectures = 4
checkpoints = 2
[method]
simplex_every = 1
paths_per_simplex_step = 2
[training]
warmup_epochs = 1
average_decay = 0.9
"""
STEPS = 7  # two epochs, two evaluations of two architectures each; the third epoch, and two evaluations more
STOPPED_AT = (4, 8)  # in the first evaluation, in the second
NUMBERS = (
    "kendall_tau", "spearman_rho", "regret", "kendall_tau_by_loss", "spearman_rho_by_loss", "regret_by_loss",
    "steps", "code_distance", "min_entry_share", "architectures",
)  # fmt: skip


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of 81 architectures: the first four layers vary."""
    path = tmp_path_factory.mktemp("truth") / "table.json"
    keys = ["".join(map(str, choices)) + "1111" for choices in product(range(3), repeat=4)]
    path.write_text(json.dumps({key: {"mean_acc": 50 + index / 7} for index, key in enumerate(keys)}))
    return path


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "miniature.toml"
    path.write_text(SETTINGS)
    return path


@pytest.fixture(scope="module", autouse=True)
def _small_steps() -> Iterator[None]:
    """Two architectures between two checkpoints."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranking, "_ARCHITECTURES_PER_STEP", 2)
        yield


@pytest.fixture(scope="module")
def finished(config: Path, table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a ranking that was never stopped."""
    out = tmp_path_factory.mktemp("runs") / "finished"
    assert rank_command({"truth": str(table), "out": str(out)}, config, None) == EXIT_DONE
    return out


def _entry(file: Path) -> dict[str, object]:
    (entry,) = json.loads(file.read_text())["runs"]
    return entry


def test_the_run_folder_holds_everything(finished: Path) -> None:
    names = {path.name for path in finished.iterdir()}
    assert names >= {"ranking.json", "report.html", "evaluated.json"}
    records = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    # 180 training images less a fifth for simplex steps make 4 batches of 32: 2 epochs, then 3, of 4 steps.
    assert [(r["step"], r["steps"]) for r in records if r["stage"] == "ranking"] == [(2, 8), (3, 12)]
    entry = _entry(finished / "ranking.json")
    assert (entry["shots"], entry["seed"], entry["steps"], entry["architectures"]) == (2, 0, 12, 4)
    assert [point["steps"] for point in entry["curve"]] == [8, 12]
    assert entry["verdict"] == "K-shot"
    assert entry["code_distance"] > 0.3
    assert 1 < entry["effective_rank"] < 2
    page = (finished / "report.html").read_text()
    assert re.search("Kendall&#39;s tau.*<th[^>]*>by loss</th><th[^>]*>by accuracy</th>", page, re.DOTALL)
    assert entry["score"] == "loss"
    assert 'class="warning"' not in page


def test_the_numbers_are_those_of_the_evaluated_architectures(finished: Path, table: Path) -> None:
    evaluated = json.loads((finished / "evaluated.json").read_text())
    truth = json.loads(table.read_text())
    assert len({item["architecture"] for item in evaluated}) == 4
    assert all(item["truth"] == truth[item["architecture"]]["mean_acc"] for item in evaluated)
    entry = _entry(finished / "ranking.json")
    for end, score in {"": "accuracy", "_by_loss": "loss"}.items():
        scores = [-item[score] if score == "loss" else item[score] for item in evaluated]
        macs = [item["macs"] for item in evaluated]
        found = asdict(rank_correlation([item["truth"] for item in evaluated], scores, macs))
        assert {name: entry[name + end] for name in found} == pytest.approx(found)
        assert {name: entry["curve"][-1][name + end] for name in found} == pytest.approx(found)
    assert len({item["loss"] for item in evaluated}) == 4
    assert entry["kendall_tau_of_macs"] == kendall_tau([item["truth"] for item in evaluated], macs)
    assert len(set(macs)) > 1


def test_the_score_asked_for_comes_first_and_changes_no_number(
    config: Path, table: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    by_accuracy = tmp_path / "accuracy.toml"
    by_accuracy.write_text(f'{config.read_text()}\n[evaluation]\nscore = "accuracy"\n')
    assert rank_command({"truth": str(table), "out": str(tmp_path / "run")}, by_accuracy, None) == EXIT_DONE
    shown = capsys.readouterr().out
    assert re.search("by accuracy .* by loss ", shown)
    entry, expected = _entry(tmp_path / "run" / "ranking.json"), _entry(finished / "ranking.json")
    assert entry["score"] == "accuracy"
    assert entry["curve"] == expected["curve"]
    for name in ("kendall_tau", "mean_truth_of_ten"):
        assert re.search(rf"{entry[name]:.3f} .* {entry[name + '_by_loss']:.3f} ", shown)


def _recorded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a ranking does from now on, in order."""
    calls: list[str] = []
    train, evaluate, averaged = TrainingLoop.train_epoch, ranking.Ranking.step, TrainingLoop.averaged

    @contextmanager
    def recorded(trainer: TrainingLoop) -> Iterator[None]:
        calls.append("averages in")
        with averaged(trainer):
            yield
        calls.append("averages out")

    monkeypatch.setattr(TrainingLoop, "averaged", recorded)
    monkeypatch.setattr(TrainingLoop, "train_epoch", lambda *args: calls.append("train") or train(*args))
    monkeypatch.setattr(ranking.Ranking, "step", lambda *args: calls.append("evaluate") or evaluate(*args))
    return calls


def test_evaluating_on_the_way_changes_nothing(
    config: Path, table: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It sees the moving averages, which then give way to the weights."""
    options = {
        "truth": str(table),
        "checkpoints": 1,
        "out": str(tmp_path / "run"),
        "results": str(tmp_path / "all.json"),
    }
    calls = _recorded(monkeypatch)
    assert rank_command(options, config, None) == EXIT_DONE
    assert calls == ["train", "train", "train", "averages in", "evaluate", "evaluate", "averages out"]
    entry, expected = _entry(tmp_path / "run" / "ranking.json"), _entry(finished / "ranking.json")
    assert [entry[name] for name in NUMBERS] == [expected[name] for name in NUMBERS]
    assert _entry(tmp_path / "all.json") == entry
    states = [load_state(run / "checkpoints" / "supernet.safetensors") for run in (tmp_path / "run", finished)]
    weights, others = (state["state"]["supernet"] for state in states)
    assert all(map(torch.equal, weights.values(), others.values()))


class _Workers:
    """A `RayMap` whose worker, like a real one, keeps a function for as long as it is the same object."""

    def __init__(self, workers: int, address: str | None) -> None:
        self.asked_for = workers, address
        self.functions: list[object] = []
        self.kept: bytes = b""
        self.closed = False

    def __enter__(self) -> _Workers:
        made.append(self)
        return self

    def __exit__(self, *error: object) -> None:
        self.closed = True

    def __call__(self, function: object, arguments: Collection) -> Iterator[object]:
        if not self.functions or function is not self.functions[-1]:
            self.functions.append(function)
            self.kept = pickle.dumps(function)
        yield from map(pickle.loads(self.kept), arguments)


made: list[_Workers] = []


def test_workers_find_what_one_process_finds(
    config: Path, table: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(session, "RayMap", _Workers)
    options = {"truth": str(table), "out": str(tmp_path / "run")}
    assert rank_command(options, config, None, None, "head:1") == EXIT_ERROR
    assert "ray_address: expected workers too" in capsys.readouterr().err
    assert rank_command(options, config, None, 3, "head:1") == EXIT_DONE
    (workers,) = made
    assert workers.asked_for == (3, "head:1")
    assert workers.closed
    assert len(workers.functions) == 2  # one for each point of training
    assert (tmp_path / "run" / "evaluated.json").read_text() == (finished / "evaluated.json").read_text()
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == (finished / "metrics.jsonl").read_text()


def test_a_run_is_analysed(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert analyse_command(finished) == EXIT_DONE
    console = capsys.readouterr().out
    assert "rank of the weights of 256 paths" in console
    assert "this is a K-shot run: codes differ, and all 2 copies are in use" in console
    analysis = json.loads((finished / "analysis" / "analysis.json").read_text())
    entry = _entry(finished / "ranking.json")
    names = {"verdict": "verdict", "distance": "code_distance", "least_share": "min_entry_share"}
    assert {name: analysis["codes"][name] for name in names} == {name: entry[key] for name, key in names.items()}
    assert analysis["whole"]["effective_rank"] == analysis["codes"]["effective_rank"] == entry["effective_rank"]
    assert analysis["epoch"] == 3
    assert 1 <= analysis["whole"]["rank"] <= 2
    assert len(analysis["distances"]["operations"]) == 8
    files = {"analysis.json", "analysis.html"}
    assert {path.name for path in (finished / "analysis").iterdir()} == files


def test_a_run_without_a_trained_epoch_is_not_analysed(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("run.json", "settings.toml"):
        shutil.copy(finished / name, tmp_path)
    assert analyse_command(tmp_path) == EXIT_ERROR
    assert "no epoch of supernet training is saved yet" in capsys.readouterr().err
    assert analyse_command(tmp_path / "none") == EXIT_ERROR
    assert "none: not a run folder" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"run.json", "settings.toml"}


def test_a_ranking_stopped_again_and_again_goes_on_as_if_never_stopped(
    config: Path,
    table: Path,
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stop_before_saves: Callable[[Collection[int]], list[int]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "run"
    saves = stop_before_saves(STOPPED_AT)
    assert rank_command({"truth": str(table), "out": str(out)}, config, None) == EXIT_INTERRUPTED
    assert f"go on with: kshot-ext rank --resume {out}" in capsys.readouterr().err
    assert rank_command({}, None, out) == EXIT_INTERRUPTED
    assert rank_command({}, None, out) == EXIT_DONE
    assert len(saves) == STEPS + len(STOPPED_AT)
    assert (out / "metrics.jsonl").read_text() == (finished / "metrics.jsonl").read_text()
    assert (out / "evaluated.json").read_text() == (finished / "evaluated.json").read_text()
    entry = _entry(out / "ranking.json")
    console = capsys.readouterr().out
    assert "before training" not in console
    assert "this is a K-shot run: codes differ, and all 2 copies are in use" in console
    assert rank_command({}, None, out) == EXIT_DONE  # once more: the same entry, not another
    assert _entry(out / "ranking.json") == entry


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"truth": None}, "truth: expected a table of stand-alone accuracies: --truth FILE"),
        ({"truth": "none.json"}, "none.json: cannot be read (No such file or directory)"),
        ({"architectures": 100}, "architectures: expected at most the 81 of the table, got 100"),
        ({"architectures": 1}, "architectures: expected 2 or more, got 1"),
        ({"space": "nas-bench-201"}, "key '00001111': expected the form |nor_conv_3x3~0|"),
        ({"space": "shufflenet-v2", "image_size": 16}, "space shufflenet-v2 has 20 layers, got 8 operations"),
        ({"results": "none/all.json"}, "there is no folder"),
        ({"device": "tpu"}, "device: expected cpu, cuda or cuda:N, got 'tpu'"),
    ],
)
def test_an_error_names_the_value_and_writes_nothing(
    config: Path,
    table: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: dict[str, object],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert rank_command({"truth": str(table)} | options, config, None) == EXIT_ERROR
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_gpu_that_is_not_there_is_an_error(
    config: Path, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert rank_command({"truth": str(table), "device": "cuda"}, config, None) == EXIT_ERROR
    assert "device: expected one of this machine, got 'cuda': torch finds no GPU" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_several_processes_are_refused(
    config: Path, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert rank_command({"truth": str(table)}, config, None) == EXIT_ERROR
    assert "rank runs in one process" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_ranking_goes_on_only_with_what_it_began_with(
    finished: Path, table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()}

    def refuses(message: str, **options: object) -> None:
        assert rank_command(options, None, finished) == EXIT_ERROR
        assert message in capsys.readouterr().err

    refuses("shots is 2 in the run, 3 asked", shots=3)
    content = table.read_text()
    table.write_text(content.replace("50.0", "49.0"))
    refuses(f"truth: {table} is not what the run began with")
    table.write_text(content)
    settings = finished / "settings.toml"
    settings.write_text(settings.read_text().replace("epochs = 3", "epochs = 4"))
    refuses("its settings were changed since the run began")
    settings.write_bytes(before[settings])
    assert {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()} == before


def test_an_evaluation_that_is_gone_is_not_made_from_later_weights(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    (run / "checkpoints" / "evaluation-2.safetensors").unlink()
    assert rank_command({}, None, run) == EXIT_ERROR
    assert f"or delete {run / 'checkpoints' / 'supernet.safetensors'} to train again" in capsys.readouterr().err
    (run / "checkpoints" / "supernet.safetensors").unlink()
    assert rank_command({}, None, run) == EXIT_DONE
    assert _entry(run / "ranking.json")["curve"] == _entry(finished / "ranking.json")["curve"]


def test_damaged_numbers_of_a_ranking_are_made_again(
    finished: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    text = (run / "metrics.jsonl").read_text()
    changed = re.sub(r'("ranking", "step": 2,.*"regret": )[^,]*', r"\1 77.0", text)
    assert changed != text
    (run / "metrics.jsonl").write_text(changed)
    assert rank_command({}, None, run) == EXIT_DONE
    assert "the record of ranking 2 is not what was written; made again" in caplog.text
    assert (run / "metrics.jsonl").read_text() == text


def test_results_damaged_meanwhile_are_named_with_the_way_to_go_on(
    finished: Path, config: Path, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(rank_outputs, "_figures", lambda *_: (tmp_path / "all.json").write_text("[]") and [])
    options = {"truth": str(table), "out": str(tmp_path / "run"), "results": str(tmp_path / "all.json"), "epochs": 2}
    assert rank_command(options | {"checkpoints": 1}, config, None) == EXIT_ERROR
    error = capsys.readouterr().err
    assert "all.json: expected" in error
    assert "mend or move that file; what was saved before is safe" in error
    assert error.strip().endswith(f"go on with: kshot-ext rank --resume {tmp_path / 'run'}")
    assert (tmp_path / "all.json").read_text() == "[]"


def test_a_one_shot_run_is_told_once_its_supernet_is_trained(config, table, tmp_path, capsys) -> None:
    """One epoch of simplex steps does not part codes that start equal; more time need not be spent on those."""
    options = {"truth": str(table), "codes": {"start": "equal"}, "out": str(tmp_path / "run")}
    assert rank_command(options, config, None) == EXIT_DONE
    trained, evaluated = " ".join(capsys.readouterr().out.split()).split("evaluate after epoch 3", 1)
    assert "evaluate after epoch 2" in trained
    assert trained.split("train supernet 3/3")[1].count("supernet: this is a one-shot run, as codes are alike") == 1
    assert "supernet: this is a one-shot run" not in evaluated
    assert "this is a one-shot run: its 2 copies act as one" in evaluated


@pytest.fixture(scope="module")
def warmed_up(config: Path, table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a ranking with one copy that kept its warm-up."""
    out = tmp_path_factory.mktemp("runs") / "one"
    options = {"truth": str(table), "out": str(out), "shots": 1, "keep_warm_up": True}
    assert rank_command(options, config, None) == EXIT_DONE
    return out


_FROM_WARM_UP = {"codes": {"perturbation": 0.0, "start": "count"}}


@pytest.mark.parametrize("shots", [1, 3])
def test_a_run_begins_from_the_warm_up_of_another(warmed_up, config, table, tmp_path, monkeypatch, shots) -> None:
    calls = _recorded(monkeypatch)
    options = {"truth": str(table), "shots": shots, "warm_up": str(warmed_up), "out": str(tmp_path / "forked")}
    assert rank_command(options | _FROM_WARM_UP, config, None) == EXIT_DONE
    assert calls.count("train") == 2  # of three epochs one is warm-up
    mine, theirs = _entry(tmp_path / "forked" / "ranking.json"), _entry(warmed_up / "ranking.json")
    records = [json.loads(line) for line in (tmp_path / "forked" / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records if record["stage"] == "supernet"] == [1, 2, 3]
    assert mine["shots"] == shots
    if shots == 1:
        assert mine["curve"] == theirs["curve"]  # as if it had done the warm-up itself
    else:
        assert mine["code_distance"] > 0.1


def test_a_run_that_shares_a_warm_up_is_resumed(warmed_up, config, table, tmp_path, stop_before_saves) -> None:
    options = {"truth": str(table), "shots": 3, "warm_up": str(warmed_up)} | _FROM_WARM_UP
    assert rank_command(options | {"out": str(tmp_path / "whole")}, config, None) == EXIT_DONE
    stop_before_saves({1, 2, 5})
    assert rank_command(options | {"out": str(tmp_path / "stopped")}, config, None) == EXIT_INTERRUPTED
    for status in (EXIT_INTERRUPTED, EXIT_INTERRUPTED, EXIT_DONE):
        assert rank_command({}, None, tmp_path / "stopped") == status
    assert (
        _entry(tmp_path / "stopped" / "ranking.json")["curve"] == _entry(tmp_path / "whole" / "ranking.json")["curve"]
    )


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"seed": 1}, "seed is 0 there, 1 here"),
        ({"max_images": 190}, "max_images is 200 there, 190 here; its images are others"),
        ({"training": {"warmup_epochs": 2}}, "training.warmup_epochs is 1 there, 2 here"),
        ({"training": {"learning_rate": 0.2}}, "training.learning_rate is 0.1 there, 0.2 here"),
        ({"codes": {"perturbation": 0.1}}, "codes.perturbation: expected 0"),
    ],
)
def test_refuses_a_warm_up_that_it_would_not_have_done(
    warmed_up, config, table, tmp_path, capsys, changed, message
) -> None:
    options = {"truth": str(table), "shots": 2, "warm_up": str(warmed_up), "out": str(tmp_path / "forked")}
    assert rank_command({**options, **_FROM_WARM_UP, **changed}, config, None) == EXIT_ERROR
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "forked").exists()


def test_methods_that_warm_up_alike_share_one(warmed_up, config, table, tmp_path, capsys) -> None:
    """`kshot` has kept it; single paths begin alike, and a method of one's own does not unless it says so."""
    images = RunRecord(warmed_up).card.inputs["data"]
    settings = RunRecord(warmed_up).settings
    single = replace(settings, method=METHODS["spos"].Settings())
    assert load_warm_up(warmed_up, single, images).state["epoch"] == 1
    (tmp_path / "mine.py").write_text(
        "from kshot_ext.nas.methods.parts.path_method import PathMethod\n"
        "class Mine(PathMethod):\n    summary = paper = 'none'"
    )
    allow_own_method(f"{tmp_path}/mine.py:Mine")
    other = replace(settings, method=MethodSettings(name=f"{tmp_path}/mine.py:Mine"))
    with pytest.raises(RunFolderError, match=r"method is .*paths as training.path_sampling.* there, .*mine.py:Mine"):
        load_warm_up(warmed_up, other, images)


def test_refuses_a_run_that_kept_no_warm_up(finished, config, table, tmp_path, capsys) -> None:
    options = {"truth": str(table), "warm_up": str(finished), "out": str(tmp_path / "forked")}
    assert rank_command(options | _FROM_WARM_UP, config, None) == EXIT_ERROR
    assert "keeps no warm-up; expected a run with keep_warm_up" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "forked").exists()


@pytest.mark.parametrize("shared", [{"keep_warm_up": True}, {"warm_up": "another"}])
@pytest.mark.parametrize("warmup_epochs", [0, 4])
def test_refuses_to_share_a_warm_up_that_has_no_end(config, table, tmp_path, capsys, shared, warmup_epochs) -> None:
    options = {"truth": str(table), "shots": 1, "out": str(tmp_path / "a"), **shared}
    assert rank_command({**options, "training": {"warmup_epochs": warmup_epochs}}, config, None) == EXIT_ERROR
    error = " ".join(capsys.readouterr().err.split())
    assert "training.warmup_epochs: expected 1 to 3, the epochs of the training," in error
    assert error.endswith(f"got {warmup_epochs}")
    assert not (tmp_path / "a").exists()


def test_points_inside_the_warm_up_are_evaluated_by_the_run_that_does_it(config, table, tmp_path) -> None:
    options = {"truth": str(table), "shots": 1, "checkpoints": 3, "training": {"warmup_epochs": 2}}
    one = options | {"keep_warm_up": True, "out": str(tmp_path / "one")}
    assert rank_command(one, config, None) == EXIT_DONE
    assert [point["steps"] for point in _entry(tmp_path / "one" / "ranking.json")["curve"]] == [4, 8, 12]
    forked = options | {"warm_up": str(tmp_path / "one"), "out": str(tmp_path / "forked")} | _FROM_WARM_UP
    assert rank_command(forked, config, None) == EXIT_DONE
    points = [_entry(tmp_path / name / "ranking.json")["curve"][-2:] for name in ("one", "forked")]
    assert points[0] == points[1]
    assert [point["steps"] for point in points[1]] == [8, 12]
    assert len(_entry(tmp_path / "forked" / "ranking.json")["curve"]) == 2
