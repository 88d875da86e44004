"""Dose prediction: its space, its losses, and a run of some seconds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import typer
from torch.utils.flop_counter import FlopCounterMode

import dose_prediction
from dose_prediction import CONNECTION, DEPTH, Distillation, DoseSpace
from parts.phantoms import masked_l1, random_phantoms, relative_difference

SPACE = DoseSpace()


@pytest.fixture(scope="module")
def phantoms() -> tuple[torch.Tensor, torch.Tensor]:
    return random_phantoms(2, torch.Generator().manual_seed(0))


@pytest.mark.parametrize("seed", range(3))
def test_costs_are_those_of_the_network(seed: int, phantoms) -> None:
    generator = torch.Generator().manual_seed(seed)
    path = SPACE.sample(generator)
    network = SPACE.new_network(path, generator)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        *features, dose = network(phantoms[0][:1])
    assert SPACE.count_macs(path) == counter.get_total_flops() // 2
    assert SPACE.count_parameters(path) == sum(weight.numel() for weight in network.parameters())
    assert [level.shape[1] for level in features] == [16, 32, 16, 8]
    assert dose.shape == (1, 1, *phantoms[0].shape[2:])
    assert (dose[phantoms[0][:1, -1:] == 0] == 0).all()


def test_cells_of_a_kind_share_their_choices() -> None:
    rows = [torch.tensor(float(row)) for row in range(8)]
    layers = [int(row) for row in SPACE.of_cells(rows)]
    assert layers == [0, 1, 2, 3] * DEPTH + [4, 5, 6, 7] * DEPTH
    connections = [layer for layer, row in enumerate(layers) if row in (2, 7)]
    assert all(SPACE.operations(layer) == CONNECTION for layer in connections)


def test_errors_count_in_the_body_only() -> None:
    inputs = torch.zeros(1, 5, 1, 1, 3)
    inputs[0, -1, 0, 0, :2] = 1
    one, other = (torch.tensor(values).view(1, 1, 1, 1, 3) for values in ([1.0, 3.0, 50.0], [2.0, 2.0, 0.0]))
    assert masked_l1(one, other, inputs) == 1  # (1 + 1) / 2
    assert relative_difference(one, other, inputs) == 0.5  # 2 * (1 + 1) / (3 + 5)


class Constant(torch.nn.Module):
    """Features and dose that are parameters."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.features = torch.nn.Parameter(torch.full((2, 16, 4, 4, 4), value))

    def forward(self, inputs: torch.Tensor) -> list[torch.Tensor]:
        return [self.features, self.features[:, :1].mean().expand_as(inputs[:, :1])]


def test_discriminators_learn_and_the_student_learns_to_deceive_them(phantoms, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dose_prediction, "FEATURE_WEIGHT", 0.0)
    inputs, doses = phantoms
    teachers, student = [Constant(0.8), Constant(1.2)], Constant(-1.0)
    distillation = Distillation(teachers, 100, torch.Generator().manual_seed(0))
    fakes = [student.features.detach().clone()]
    for _ in range(90):
        distillation(inputs, student(inputs))
    real = [torch.ones_like(fakes[0])]
    assert distillation.deceived(real, 1.0) < 0.3
    assert distillation.deceived(fakes, 0.0) < 0.3
    distillation(inputs, [student.features, torch.ones_like(doses)]).backward()  # the dose is the teachers'
    before = distillation.deceived(fakes, 1.0)  # after the call, in which the discriminators learn too
    assert distillation.deceived([fakes[0] - 1e5 * student.features.grad], 1.0) < before - 0.1
    assert all(network.features.grad is None for network in teachers)


def test_the_student_is_taught_the_mean_of_the_teachers(phantoms) -> None:
    inputs, _ = phantoms
    distillation = Distillation([Constant(0.5), Constant(1.5)], 100, torch.Generator().manual_seed(0))
    losses = {}
    for value in (0.5, 1.0, 1.5):
        losses[value] = float(distillation(inputs, Constant(value)(inputs)).detach())
    assert losses[1.0] < 0.01 + min(losses[0.5], losses[1.5]) - 0.5  # L1 alone parts them by 0.5


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dose_prediction")
    dose_prediction.main(folder, seed=3, quick=True)
    return folder


def test_a_quick_run_writes_its_numbers_and_a_picture(run: Path) -> None:
    metrics = json.loads((run / "metrics.json").read_text())
    scores = metrics["dose_score_gray"]
    assert list(scores) == ["teacher 1", "teacher 2", "teacher 3", "ensemble", "student", "student without teachers"]
    # The error of a mean is at most the mean of the errors.
    assert 0 < scores["ensemble"] <= sum(scores[f"teacher {number}"] for number in (1, 2, 3)) / 3 + 1e-6
    assert len(metrics["relative_differences"]) == 3
    assert 0 < metrics["macs"]["student"] < metrics["macs"]["ensemble"]
    assert (run / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_a_seed_gives_the_same_numbers_again(run: Path, tmp_path: Path) -> None:
    dose_prediction.main(tmp_path, seed=3, quick=True)
    one, other = (json.loads((folder / "metrics.json").read_text()) for folder in (run, tmp_path))
    times = {"seconds": 0, "milliseconds": 0}
    assert one | times == other | times


def test_a_folder_in_use_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "picture.png").write_text("mine")
    with pytest.raises(typer.BadParameter, match=r"exists already; move it away or choose another folder"):
        dose_prediction.main(tmp_path, quick=True)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("picture.png", "mine")]
