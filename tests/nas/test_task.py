"""Losses and metrics of one's own: what they compute, that they reach every stage, and what is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from typer.testing import CliRunner

from kshot_ext import nas
from kshot_ext.cli import app
from kshot_ext.nas.datasets import load_splits, open_source
from kshot_ext.nas.datasets.image_set import ImageSet
from kshot_ext.nas.datasets.splits import DataSplits
from kshot_ext.nas.methods import METHODS, begin_training
from kshot_ext.nas.networks.evaluation import Scores, evaluate_network
from kshot_ext.nas.randomness import named_generator
from kshot_ext.nas.runs.gather_settings import gather_settings
from kshot_ext.nas.runs.settings import RunSettings
from kshot_ext.nas.spaces import create_space
from kshot_ext.nas.tables import SettingsError
from kshot_ext.nas.task import CLASSIFICATION, MultiLabel, Regression, Task, check_task, task_named
from kshot_ext.nas.training.settings import TrainingSettings

SMALL = {"channels": 2, "shots": 1, "method": "spos", "rivals": 1, "progress": False}
SHORT = {
    "training": {"epochs": 1, "batch_size": 16, "warmup_epochs": 0},
    "search": {"population": 3, "generations": 1},
    "retrain": {"epochs": 1, "batch_size": 16, "seeds": 1},
    "evaluation": {"score": "accuracy"},
}
OWN = """
from torch.nn import functional as F
from kshot_ext.nas.task import Task

class Tilted(Task):
    name = "tilted regression"
    metric_name = "pinball loss"
    higher_is_better = False

    def loss(self, outputs, targets):
        error = targets - outputs
        return (0.9 * error.relu() + 0.1 * (-error).relu()).mean()

    metric = loss
"""


def bright_images(count: int = 80) -> tuple[Tensor, Tensor]:
    """Images whose targets are their brightness and contrast, more or less."""
    generator = torch.Generator().manual_seed(0)
    brightness = torch.randint(50, 200, (count, 1, 1, 1), generator=generator)
    pixels = (brightness + torch.randint(-50, 50, (count, 1, 8, 8), generator=generator)).to(torch.uint8)
    return pixels, torch.stack([brightness.flatten() / 255, pixels.float().std(dim=(1, 2, 3)) / 64], dim=1)


@pytest.fixture
def numbers(tmp_path: Path) -> Path:
    pixels, targets = bright_images()
    np.savez(tmp_path / "bright.npz", images=pixels[:, 0].numpy(), labels=targets.numpy())
    return tmp_path / "bright.npz"


def test_regression_and_labels_are_scored_as_equations_say() -> None:
    outputs, targets = torch.tensor([[1.0, 2.0], [3.0, -4.0]]), torch.tensor([[1.5, 1.0], [0.0, -4.0]])
    assert float(Regression().loss(outputs, targets)) == pytest.approx((0.25 + 1 + 9 + 0) / 4)
    assert float(Regression().metric(outputs, targets)) == pytest.approx((0.5 + 1 + 3 + 0) / 4)
    marks = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    share = [1 / (1 + math.exp(-value)) for value in (1, 2, 3, -4)]
    expected = -(math.log(share[0]) + math.log(1 - share[1]) + math.log(share[2]) + math.log(share[3])) / 4
    assert float(MultiLabel().loss(outputs, marks)) == pytest.approx(expected)
    assert float(MultiLabel().metric(outputs, marks)) == 0.5
    assert Regression().num_outputs(targets, ()) == 2
    assert Regression().prepared(torch.tensor([3, 4])).tolist() == [[3], [4]]


def test_batches_count_by_their_sizes() -> None:
    images = torch.arange(5.0).view(5, 1, 1, 1)
    batches = [(images[:3], torch.zeros(3, 1)), (images[3:], torch.zeros(2, 1))]
    scores = evaluate_network(torch.nn.Flatten(), batches, Regression())
    assert scores == Scores(pytest.approx(10 / 5), pytest.approx(30 / 5), True)
    assert scores.merit("accuracy") == -2
    assert Scores.mean([scores, Scores(4.0, 8.0, True)]) == Scores(3.0, pytest.approx(7.0), True)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_methods_do_the_task_or_refuse_it_by_name(name: str) -> None:
    pixels, targets = bright_images(48)
    images = ImageSet(pixels, targets)
    splits = DataSplits(images, images, images, (), torch.zeros(1), torch.ones(1), task=Regression())
    kind = "groupable" if name == "dgconv" else "nas-bench-macro"
    space = create_space(kind, image_shape=(1, 8, 8), num_classes=splits.num_classes, channels=8)
    training = TrainingSettings(epochs=2, batch_size=8, warmup_epochs=0)
    settings, shots = METHODS[name].Settings(), 2 if name in ("kshot", "few-shot") else 1

    def begin() -> Any:
        return begin_training(settings, space, splits, training, shots=shots)

    if not METHODS[name].any_task:
        assert name in ("cream", "csnas", "fp-nas", "neas")
        with pytest.raises(ValueError, match=f"task: {name} needs a class for every image, .* got regression"):
            begin()
        return
    first, second = (begin().train_epoch() for _ in range(2))
    assert first.loss == second.loss
    assert math.isfinite(first.loss)
    assert math.isfinite(first.accuracy)


@pytest.mark.usefixtures("one_thread")
def test_a_search_for_regression_says_its_metric_and_measures_it(numbers: Path, tmp_path: Path) -> None:
    run = nas.search(SHORT, data=numbers, task=Regression(), out=tmp_path / "run", **SMALL)
    results = json.loads((run.path / "results.json").read_text())
    assert (results["task"], results["metric"]) == ("regression", "mean absolute error")
    assert results["winner"]["supernet_accuracy"] == min(item["supernet_accuracy"] for item in results["history"])
    report = (run.path / "report.html").read_text()
    assert "test mean absolute error of the winner" in report
    assert "validation mean absolute error in the supernet" in report
    assert "chosen by mean absolute error on validation images" in report
    assert "regression of 2 numbers of " in report
    assert "accuracy" not in report.partition("<h2")[0]
    data = load_splits(open_source(numbers, task=Regression()), generator=named_generator(0, "data"))
    network = run.network("winner")
    with torch.no_grad():
        outputs = network(data.test.images)
    measured = float((outputs - data.test.labels).abs().mean())
    assert results["winner"]["test_accuracy"] == pytest.approx(measured, rel=1e-4)


@pytest.mark.usefixtures("one_thread")
def test_the_command_line_names_a_task_of_ones_own(
    numbers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "short.toml").write_text(
        "channels = 2\nshots = 1\nrivals = 0\n[training]\nepochs = 1\nwarmup_epochs = 0\n[search]\npopulation = 2\n"
        "generations = 1\n[retrain]\nepochs = 1\nseeds = 1\n"
    )
    command = ["search", "--config", "short.toml", "--data", str(numbers), "--method", "spos", "--out", "run"]
    result = CliRunner().invoke(app, [*command, "--task", "own.py:Tilted"])
    assert result.exit_code == 0, result.output
    assert "test pinball loss" in result.output
    assert json.loads((tmp_path / "run" / "results.json").read_text())["metric"] == "pinball loss"


def test_only_who_names_a_file_has_it_run(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("raise SystemExit('run')")
    name = f"{tmp_path}/own.py:Tilted"
    with pytest.raises(ValueError, match=r"task: expected --task .* which settings read from a file must not do"):
        task_named(name)
    with pytest.raises(SettingsError, match="task: expected --task"):
        gather_settings(RunSettings(), {"task": name}, {})
    with pytest.raises(
        SettingsError, match="task: expected one of classification, regression, multi-label, got 'guess'"
    ):
        gather_settings(RunSettings(), None, {"task": "guess"})


class Broken(Task):
    """A task whose parts are given."""

    name = "broken"

    def __init__(self, loss: Any, metric: Any = F.l1_loss) -> None:
        self._loss, self._metric = loss, metric

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return self._loss(outputs, targets)

    def metric(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return self._metric(outputs, targets)


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (Broken(lambda a, b: (a - b) ** 2), r"expected loss of broken to be a tensor of one number, got \[2, 3\]"),
        (Broken(lambda a, b: (a - b).sum().item()), "expected loss of broken to be a tensor of one number, got float"),
        (Broken(lambda a, b: (a - b).detach().sum()), "expected loss of broken to be differentiable in the outputs"),
        (
            Broken(lambda a, b: a @ b),
            r"loss of broken fails with outputs \[2, 3\] and targets torch.float32 \[2, 3\]: ",
        ),
        (Broken(F.mse_loss, lambda a, b: a), r"expected metric of broken to be a tensor of one number, got \[2, 3\]"),
    ],
)
def test_a_task_is_tried_before_training(task: Task, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_task(task, torch.zeros(2, 3), 3)
    check_task(Regression(), torch.zeros(2, 3), 3)
    check_task(CLASSIFICATION, torch.zeros(2, dtype=torch.int64), 3)
