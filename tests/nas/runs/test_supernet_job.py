"""What a job hands on to the networks and the training that it makes."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from rich.console import Console

from kshot_ext.nas.datasets.splits import DataSplits
from kshot_ext.nas.networks.code_settings import CodeSettings
from kshot_ext.nas.networks.evaluation import EvaluationSettings, InheritedEvaluation
from kshot_ext.nas.progress import ConsoleProgress
from kshot_ext.nas.runs import supernet_job
from kshot_ext.nas.runs.metrics import MetricsLog
from kshot_ext.nas.runs.run_card import RunCard
from kshot_ext.nas.runs.run_folder import RunFolder
from kshot_ext.nas.runs.search_job import SearchJob
from kshot_ext.nas.runs.settings import RunSettings, SupernetSettings
from kshot_ext.nas.runs.supernet_job import SupernetJob, load_data
from kshot_ext.nas.searchers.generations import SearchSettings
from kshot_ext.nas.spaces.space import SearchSpace
from kshot_ext.nas.training.data_parallel import DataParallel
from kshot_ext.nas.training.retrain import RetrainSettings
from kshot_ext.nas.training.settings import TrainingSettings


def test_networks_are_made_as_the_settings_say(tiny_splits: DataSplits) -> None:
    codes = CodeSettings(start="cost", per_layer=True, perturbation=0.0, mixed_batch_norm=False)
    method = SupernetJob(SupernetSettings(shots=3, channels=2, codes=codes), tiny_splits).method
    supernet, simplex_net = method.supernet, method.simplex_net
    weight = supernet.get_parameter("stem.0.weight")
    assert len(weight) == 3
    assert torch.equal(weight[1:], weight[:-1])
    assert not supernet.mixed_batch_norm
    assert simplex_net.settings == codes


def test_a_job_trains_with_its_processes(tiny_splits: DataSplits) -> None:
    processes = DataParallel()
    job = SupernetJob(SupernetSettings(channels=2, shots=1), tiny_splits, processes)
    assert job.loop.processes is job.processes is processes


def test_architectures_are_scored_as_the_settings_say(tiny_splits: DataSplits) -> None:
    def evaluation(seed: int, settings: EvaluationSettings) -> InheritedEvaluation:
        return SupernetJob(SupernetSettings(channels=2, seed=seed, evaluation=settings), tiny_splits).evaluation

    whole = evaluation(0, EvaluationSettings())
    assert (whole.validation, whole.statistics) == (tiny_splits.validation, "recalibrated")
    some, same, other = (evaluation(seed, EvaluationSettings(statistics="batch", images=6)) for seed in (0, 0, 1))
    assert (len(some.validation), some.statistics) == (6, "batch")
    assert torch.equal(some.validation.images, same.validation.images)
    assert not torch.equal(some.validation.images, other.validation.images)
    assert len(evaluation(0, EvaluationSettings(images=99)).validation) == len(tiny_splits.validation)


@pytest.mark.parametrize("score", ["loss", "accuracy"])
def test_a_search_goes_by_the_score_of_the_settings(tiny_splits: DataSplits, tmp_path: Path, score: str) -> None:
    settings = RunSettings(
        channels=2,
        shots=1,
        evaluation=EvaluationSettings(score=score),
        training=TrainingSettings(epochs=1, batch_size=16, warmup_epochs=0),
        search=SearchSettings(population=6, generations=2),
        retrain=RetrainSettings(epochs=1, batch_size=16),
    )
    job = SearchJob(settings, tiny_splits)
    folder = RunFolder.create(tmp_path / "run", settings, RunCard.new("search", settings, "stripes", tiny_splits))
    console = Console(file=io.StringIO(), width=200)
    metrics = MetricsLog(folder.path / "metrics.jsonl", folder.path / "tensorboard")
    result, _ = job.run(folder, metrics, ConsoleProgress(console))
    shown = console.file.getvalue()
    assert (f"best {score} " in shown, "best accuracy " in shown) == (True, score == "accuracy")
    history = [item.scores for item in job.archive.history]
    best = min(each.loss for each in history) if score == "loss" else max(each.accuracy for each in history)
    assert result.score == score
    assert {"loss": result.winner.supernet_loss, "accuracy": result.winner.supernet_accuracy}[score] == best
    chosen = job.archive.best.scores
    assert (result.winner.supernet_accuracy, result.winner.supernet_loss) == (chosen.accuracy, chosen.loss)
    (last,) = (record for record in metrics.records if (record["stage"], record["step"]) == ("search", 2))
    assert (last["best_loss"], last["best_accuracy"]) == (result.winner.supernet_loss, result.winner.supernet_accuracy)
    folder.close()


def test_more_copies_than_memory_holds_are_refused(
    tiny_splits: DataSplits, tiny_space: SearchSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = tiny_space.build(tiny_space.largest(), torch.Generator())
    needed = 3 * 2 * 4 * sum(parameter.numel() for parameter in network.parameters())
    settings = SupernetSettings(channels=2, shots=3)
    monkeypatch.setattr(supernet_job, "available_memory", lambda: needed)
    SupernetJob(settings, tiny_splits)
    monkeypatch.setattr(supernet_job, "available_memory", lambda: needed - 1)
    with pytest.raises(ValueError, match=r"shots: 3 copies of the weights are too large for memory .*; use fewer"):
        SupernetJob(settings, tiny_splits)


def test_what_is_left_out_is_told_on_the_console_and_kept(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    for label, name in enumerate(("cat", "dog")):
        (tmp_path / name).mkdir()
        for number in range(6):
            Image.new("L", (8, 8), 10 * label + number).save(tmp_path / name / f"{number}.png")
    (tmp_path / "cat" / "[x].heic").write_bytes(b"no image")
    console = Console(file=io.StringIO(), width=40)
    settings = SupernetSettings(data=str(tmp_path))
    name, splits = load_data(settings, ConsoleProgress(console))
    note = "left out 1 file that Pillow reads no image from: 'cat/[x].heic'"
    assert splits.notes == (note,)
    assert f"data: {note}\n" in console.file.getvalue()
    assert not recwarn.list
    card = RunCard.from_json(RunCard.new("search", settings, name, splits).to_json())
    assert card.data_notes == (note,)


@pytest.mark.parametrize(
    ("codes", "told"),
    [
        ({"start": "cost"}, []),
        ({"start": "cost", "temperature": 1e4}, ["before training codes are alike: 0.000 apart"]),
        ({}, ["before training codes are alike: 0.000 apart"]),
        ({"start": "decision"}, []),  # it is not known before the end of warm-up
    ],
)
def test_codes_that_start_alike_are_told_of(
    tiny_splits: DataSplits, codes: dict[str, Any], told: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    settings = SupernetSettings(
        shots=3, channels=2, training=TrainingSettings(batch_size=8), codes=CodeSettings(**codes)
    )
    SupernetJob(settings, tiny_splits).get_ready(ConsoleProgress(Console()))
    lines = capsys.readouterr().out.splitlines()
    assert [line[: len(text)] for line, text in zip(lines, told)] == told
    assert len(lines) == len(told)


def test_one_copy_is_not_told_of(tiny_splits: DataSplits, capsys: pytest.CaptureFixture[str]) -> None:
    settings = SupernetSettings(shots=1, channels=2, training=TrainingSettings(batch_size=8))
    SupernetJob(settings, tiny_splits).get_ready(ConsoleProgress(Console()))
    assert capsys.readouterr().out == ""
